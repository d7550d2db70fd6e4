import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { LocalFile } from '../../convert/files.ts';
import { DeviceService } from '../../device/device-service.ts';
import { DeviceError, type DeviceErrorDetail } from '../../device/errors.ts';
import { dieWithParent } from '../../device/linux.ts';
import { dropInheritedMounts } from '../../device/mount/inherited-mounts.ts';
import type { Digest } from '../../image/digest.ts';
import type { Manifest } from '../../image/manifest.ts';
import { silentLogger } from '../../runtime/logger.ts';
import { silentMetrics } from '../../runtime/metrics.ts';
import { SystemClock } from '../../runtime/node/clock.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import type { BlobReader } from '../../transfer/contracts/blob-reader.ts';
import { defined } from '../../util/assert.ts';
import { errorText } from '../../util/errors.ts';

/** The image to mount: the one line of the standard input. */
export interface MountOrder {
  readonly reference: string;
  readonly digest: Digest;
  readonly manifest: Manifest;
  /** By the digest of the layer. */
  readonly files: Readonly<Record<string, string>>;
  /** For what is mounted; it may be that of nobody else. */
  readonly folder: string;
}

/** What came of it: the one line of the standard output. */
export type MountAnswer =
  | { readonly dir: string }
  | { readonly failure: string; readonly detail: DeviceErrorDetail };

/**
 * Mounts the image of its one line of input, serves it until the input ends, and unmounts it. A
 * process of its own, in a mount namespace of its own.
 */
async function run(): Promise<void> {
  dieWithParent();
  dropInheritedMounts();
  const input = createInterface({ input: process.stdin });
  const ended = once(input, 'close');
  const [line] = (await once(input, 'line')) as [string];
  try {
    await serve(JSON.parse(line) as MountOrder, ended);
  } catch (error) {
    const failed = { code: 'failed', step: 'mounting' } as const;
    const detail = error instanceof DeviceError ? error.detail : failed;
    answer({ failure: errorText(error), detail });
  }
}

async function serve(order: MountOrder, ended: Promise<unknown>): Promise<void> {
  const { reference, digest, manifest, files, folder } = order;
  const opened = new Map<string, LocalFile>();
  for (const [blob, path] of Object.entries(files)) {
    opened.set(blob, await LocalFile.open(path, 'read'));
  }
  const reader: BlobReader = {
    read: (blob, offset, length) =>
      defined(opened.get(blob.digest), 'only layers of the image are read').read(offset, length),
    readCached: () => undefined,
  };
  const service = new DeviceService(
    {
      ...{ reader, codec: new NodeCodec(), clock: new SystemClock() },
      ...{ logger: silentLogger, metrics: silentMetrics },
    },
    { stateDir: join(folder, 'state'), mountFolders: [folder] },
  );
  try {
    await service.start();
    const { dir } = await service.mount({ reference, digest, manifest }, join(folder, 'root'));
    answer({ dir });
    await ended;
  } finally {
    await service.stop();
  }
}

function answer(made: MountAnswer): void {
  process.stdout.write(`${JSON.stringify(made)}\n`);
}

await run();
