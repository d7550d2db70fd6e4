import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { NodeDisk } from '../../src/runtime/node/disk.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { storeParts } from './blocks.ts';
import { describeBlockStore } from './contract.ts';

describeBlockStore('DiskStore', {
  open: () => {
    const root = tempFolder();
    const open = (): DiskStore => new DiskStore(storeParts(new NodeDisk({ root })));
    return { store: open(), reopen: open };
  },
});
