import { WritableFuseServer } from '../../../src/device/fuse/writable-server.ts';
import { deviceMetrics } from '../../../src/device/metrics.ts';
import { AppendLayer, type LowerDisk } from '../../../src/image/append-layer.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { readFully } from '../../../src/runtime/whole-file.ts';

/**
 * A process that serves the writable layer in `FOLDER/upper`, which it makes, over the file
 * `FOLDER/base`, at `FOLDER/fuse`. It prints `ready`, and ends with the unmount.
 *
 *     node writable-server.ts FOLDER SIZE_BYTES
 */
async function main(folder: string, sizeBytes: number): Promise<void> {
  const disk = new NodeDisk({ root: folder });
  const base = await disk.open('base', 'read');
  const lower: LowerDisk = {
    sizeBytes,
    read: async (target, offset) => {
      const count = await readFully(base, target, offset);
      if (count < target.length) throw new Error('the base is too short');
    },
  };
  const open = (): Promise<AppendLayer | undefined> => AppendLayer.open({ disk, lower }, 'upper');
  let layer = await open();
  if (layer === undefined) {
    const uuid = '01234567-89AB-CDEF-0123-456789ABCDEF';
    await disk.makeFolder('upper');
    await AppendLayer.create(disk, 'upper', { virtualSizeBytes: sizeBytes, uuid });
    layer = await open();
  }
  if (layer === undefined) throw new Error('the layer is gone');
  const server = new WritableFuseServer(
    { disk: layer, logger: silentLogger, metrics: deviceMetrics(silentMetrics) },
    { path: `${folder}/fuse` },
  );
  server.mount();
  console.log('ready');
  await server.ended;
  await layer.close();
}

const [folder, size] = process.argv.slice(2);
await main(String(folder), Number(size));
