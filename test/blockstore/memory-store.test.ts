import { MemoryStore } from '../../src/blockstore/memory-store.ts';
import { describeBlockStore } from './kit/contract.ts';

describeBlockStore('MemoryStore', {
  open: () => {
    const store = new MemoryStore();
    return { store, reopen: () => store };
  },
});
