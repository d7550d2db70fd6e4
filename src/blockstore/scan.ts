import {
  blockCount,
  blockIndex,
  blockLength,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { Codec } from '../runtime/codec.ts';
import { DiskError, type Disk, type DiskFile } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { BitSet } from '../util/bit-set.ts';
import { errorText } from '../util/errors.ts';
import { readFully } from '../runtime/whole-file.ts';
import type { MatchesDigest } from './store.ts';
import {
  BLOBS_FOLDER,
  blobPaths,
  blocksOfGroup,
  dataPath,
  decodeHeader,
  digestOfFolder,
  groupOf,
  groupOfFile,
  HEADER_BYTES,
  RECORD_BYTES,
  RecordCodec,
  recordOffset,
} from './layout.ts';

/** Blobs read at a time: one for each of Node's threads for files. */
const SCANS_RUNNING = 4;

/** Records read at a time: about 1 MiB, which each scan holds. */
const RECORDS_PER_READ = 7 * 1024;

/** A blob of an earlier run, with its present blocks. */
export interface FoundBlob {
  readonly blob: BlobRef;
  readonly present: BitSet;
}

/** The blocks of the blobs that were found. */
export function* foundBlocks(found: readonly FoundBlob[]) {
  for (const { blob, present } of found) {
    for (const value of present.values()) {
      const block = blockIndex(value);
      yield { digest: blob.digest, block, lengthBytes: blockLength(blob.sizeBytes, block) };
    }
  }
}

interface ScanComponents {
  readonly disk: Disk;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly logger: Logger;
}

/**
 * Finds the blocks that earlier runs kept. Reads only the records, never the data: a byte of
 * records stands for 1,800 of data. Repairs the remains of a crash, so that no file takes space
 * uncounted: data without records, records without data, blobs with a damaged header. Foreign files
 * stay and are logged. Ignores blobs beyond `blobsMax`.
 */
export async function scanStore(
  components: ScanComponents,
  init: { blobsMax: number },
): Promise<FoundBlob[]> {
  const digests = await listBlobs(components);
  if (digests.length > init.blobsMax) {
    const fields = { blobCount: digests.length, blobsMax: init.blobsMax };
    components.logger.warn(
      fields,
      'the store holds more blobs than its limit; the rest is ignored',
    );
    digests.length = init.blobsMax;
  }
  const found: FoundBlob[] = [];
  const queue = digests.values();
  const worker = async (): Promise<void> => {
    const buffer = new Uint8Array(RECORDS_PER_READ * RECORD_BYTES);
    for (const digest of queue) {
      const blob = await scanBlob(components, digest, buffer);
      if (blob !== undefined) found.push(blob);
    }
  };
  await Promise.all(Array.from({ length: SCANS_RUNNING }, worker));
  return found;
}

async function listBlobs({ disk, logger }: ScanComponents): Promise<Digest[]> {
  const digests: Digest[] = [];
  for (const shard of await disk.list(BLOBS_FOLDER)) {
    const path = `${BLOBS_FOLDER}/${shard.name}`;
    let foreignCount = 0;
    try {
      for (const entry of await disk.list(path)) {
        const digest = digestOfFolder(shard.name, entry.name);
        if (digest !== undefined && entry.kind === 'folder') digests.push(digest);
        else foreignCount++;
      }
    } catch (error) {
      // A file in place of a folder, or an unreadable folder: the rest is still usable.
      logger.warn({ path, error: errorText(error) }, 'a part of the store is unreadable');
    }
    if (foreignCount > 0) {
      logger.warn({ path, foreignCount }, 'the store ignores files that it did not make');
    }
  }
  // By name: the disk lists them in any order.
  return digests.sort();
}

async function scanBlob(
  components: ScanComponents,
  digest: Digest,
  buffer: Uint8Array,
): Promise<FoundBlob | undefined> {
  const path = blobPaths(digest).records;
  let found: FoundBlob | undefined;
  try {
    const file = await components.disk.open(path, 'read');
    try {
      found = await readBlob(components, { digest, file, path }, buffer);
    } finally {
      await file.close();
    }
    if (found !== undefined) await repairGroups(components, found);
  } catch (error) {
    components.logger.warn({ path, error: errorText(error) }, 'a blob in the store is unreadable');
    if (!(error instanceof DiskError && error.code === 'not-found')) return undefined;
  }
  if (found !== undefined && found.present.count > 0) return found;
  // Without records, damaged, or with every block dropped: it has no block to serve.
  await attempt(components, path, () => components.disk.remove(blobPaths(digest).folder));
  return undefined;
}

async function readBlob(
  { codec, logger }: ScanComponents,
  { digest, file, path }: { digest: Digest; file: DiskFile; path: string },
  buffer: Uint8Array,
): Promise<FoundBlob | undefined> {
  const header = buffer.subarray(0, HEADER_BYTES);
  const headerBytes = await readFully(file, header, 0);
  const blob = decodeHeader(codec, header.subarray(0, headerBytes));
  if (blob === undefined || blob.digest !== digest) {
    logger.warn({ path }, 'a blob in the store has a damaged header; it is removed');
    return undefined;
  }
  const found = { blob, present: new BitSet(blockCount(blob.sizeBytes)) };
  const onPresent = (index: BlockIndex): unknown => found.present.add(index);
  const damaged = await readRecords({ codec }, { file, blob, onPresent }, buffer);
  if (damaged > 0) logger.warn({ path, blockCount: damaged }, 'records in the store are damaged');
  return found;
}

/** Reconciles data files and records: a crash may leave either without the other. */
async function repairGroups(components: ScanComponents, found: FoundBlob): Promise<void> {
  const { disk, logger } = components;
  const { present } = found;
  const paths = blobPaths(found.blob.digest);
  const recorded = new Set<number>();
  for (const index of present.values()) recorded.add(groupOf(blockIndex(index)));
  for (const { name } of await disk.list(paths.folder)) {
    const group = groupOfFile(name);
    if (group === undefined || recorded.delete(group)) continue;
    await attempt(components, paths.folder, () => disk.remove(`${paths.folder}/${name}`));
  }
  // The remaining groups have no data.
  for (const group of recorded) {
    const [first, count] = blocksOfGroup(group, present.length);
    for (let i = first; i < first + count; i++) present.delete(i);
    const path = dataPath(paths, group);
    logger.warn({ path }, 'blocks in the store were lost: their data is gone');
    await attempt(components, path, () => eraseRecords(disk, paths.records, [first, count]));
  }
}

async function eraseRecords(
  disk: Disk,
  path: string,
  [first, count]: readonly [number, number],
): Promise<void> {
  const file = await disk.open(path, 'write');
  try {
    await file.write(new Uint8Array(count * RECORD_BYTES), recordOffset(blockIndex(first)));
  } finally {
    await file.close();
  }
}

/** Tries a repair; the next start repeats a failed one. */
async function attempt(
  { logger }: ScanComponents,
  path: string,
  action: () => Promise<void>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    logger.warn({ path, error: errorText(error) }, 'a part of the store could not be repaired');
  }
}

/**
 * The blocks of a blob whose records name a BLAKE3 that does not match; none of a blob that has no
 * records. Rejects with DiskError.
 */
export async function findOthers(
  components: Pick<ScanComponents, 'disk' | 'codec'>,
  blob: BlobRef,
  matches: MatchesDigest,
): Promise<readonly BlockIndex[]> {
  const others: BlockIndex[] = [];
  const records = new RecordCodec(components, { blob });
  const onPresent = (index: BlockIndex, slot: Uint8Array): void => {
    const digest = records.decode(index, slot)?.blockDigest;
    if (digest !== undefined && !matches(index, digest)) others.push(index);
  };
  try {
    const file = await components.disk.open(blobPaths(blob.digest).records, 'read');
    try {
      const buffer = new Uint8Array(RECORDS_PER_READ * RECORD_BYTES);
      await readRecords(components, { file, blob, onPresent }, buffer);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (!(error instanceof DiskError && error.code === 'not-found')) throw error;
  }
  return others;
}

/** Calls back for each present block; gives the count of damaged records. */
async function readRecords(
  components: Pick<ScanComponents, 'codec'>,
  {
    file,
    blob,
    onPresent,
  }: {
    file: DiskFile;
    blob: BlobRef;
    onPresent: (index: BlockIndex, slot: Uint8Array) => unknown;
  },
  buffer: Uint8Array,
): Promise<number> {
  const records = new RecordCodec(components, { blob });
  const blocks = blockCount(blob.sizeBytes);
  let damaged = 0;
  for (let first = 0; first < blocks; first += RECORDS_PER_READ) {
    const wanted = Math.min(RECORDS_PER_READ, blocks - first) * RECORD_BYTES;
    const target = buffer.subarray(0, wanted);
    const count = await readFully(file, target, recordOffset(blockIndex(first)));
    // A record may be cut off by the end of the file.
    if (count % RECORD_BYTES !== 0) damaged++;
    for (let i = 0; (i + 1) * RECORD_BYTES <= count; i++) {
      const slot = target.subarray(i * RECORD_BYTES, (i + 1) * RECORD_BYTES);
      const index = blockIndex(first + i);
      const state = records.check(index, slot);
      if (state === 'present') onPresent(index, slot);
      else if (state === 'damaged') damaged++;
    }
    if (count < wanted) break;
  }
  return damaged;
}
