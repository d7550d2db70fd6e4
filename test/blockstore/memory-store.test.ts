import { MemoryStore } from '../../src/blockstore/memory-store.ts';
import { describeBlockStore } from './contract.ts';

describeBlockStore('MemoryStore', {
  open: () => {
    const store = new MemoryStore();
    return { store, reopen: () => store };
  },
});
