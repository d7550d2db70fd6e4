import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskStore } from '../src/blockstore/disk-store.ts';
import {
  blobPaths,
  dataPath,
  encodeHeader,
  GROUP_BLOCKS,
  RecordCodec,
  recordOffset,
  VERSION_FILE,
  VERSION_TEXT,
} from '../src/blockstore/layout.ts';
import { BLOCK_SIZE_BYTES, blockIndex, type BlobRef } from '../src/image/block.ts';
import type { AttestedBlock } from '../src/image/attested-block.ts';
import { parseDigest } from '../src/image/digest.ts';
import type { Disk } from '../src/runtime/disk.ts';
import { silentLogger } from '../src/runtime/logger.ts';
import { silentMetrics } from '../src/runtime/metrics.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { NodeCodec } from '../src/runtime/node/codec.ts';
import { NodeDisk } from '../src/runtime/node/disk.ts';
import { NodeHash } from '../src/runtime/node/hash.ts';
import { SystemRandom } from '../src/runtime/node/random.ts';
import { assert, defined } from '../src/util/assert.ts';
import { BufferPool, PooledBytes } from '../src/util/buffer-pool.ts';
import { MIB } from '../src/util/bytes.ts';
import type { BenchRow } from './rows.ts';

/** Blocks through the store: 1 GiB, in four blobs as the layers of an image are. */
const BLOCKS = { full: 4096, smoke: 32 };
const BLOB_COUNT = 4;

/**
 * Gets of a hot set while the bench puts other blocks, a few at a time with pauses: once into a
 * store that has room, once into a full store that evicts as much as it receives.
 */
const EVICTION = {
  full: { hotBlocks: 512, quotaBlocks: 2048, gets: 30_000 },
  smoke: { hotBlocks: 16, quotaBlocks: 256, gets: 200 },
};

/**
 * Pause between two puts, in milliseconds. Together with the puts themselves it gives 128 MiB/s: a
 * fast network, and the rate that such a disk sustains beside reads.
 */
const PUT_PAUSE_MS = 1;

/** Blocks of the store whose start the bench measures: 100 GB. */
const SCANNED_BLOCKS = { full: 400_000, smoke: 4_000 };
const SCANNED_BLOBS = 40;

/** Blocks requested at a time in rows with several. */
const DEPTH = 8;

const clock = new SystemClock();

/** Measures puts and gets against plain files, and the start of a store that holds 100 GB. */
export async function benchStore(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  const rows: BenchRow[] = [];
  for (const run of [
    (root: string) => benchPlain(root, BLOCKS[size]),
    (root: string) => benchBlocks(root, BLOCKS[size]),
    (root: string) => benchEviction(root, EVICTION[size]),
    (root: string) => benchScan(root, SCANNED_BLOCKS[size]),
  ]) {
    const root = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
    try {
      rows.push(...(await run(root)));
    } finally {
      await rm(root, { recursive: true, force: true });
    }
  }
  return rows;
}

function openStore(root: string, quotaBytes?: number): { store: DiskStore; disk: Disk } {
  const disk = new NodeDisk({ root });
  const parts = {
    disk,
    clock,
    codec: new NodeCodec(),
    hash: new NodeHash(),
    pool: new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 4 * DEPTH }),
    logger: silentLogger,
    metrics: silentMetrics,
  };
  const store = new DiskStore(parts, quotaBytes === undefined ? {} : { quotaBytes });
  return { store, disk };
}

function benchBlob(number: number, blocks: number): BlobRef {
  const hex = number.toString(16).padStart(2, '0').repeat(32);
  return {
    digest: defined(parseDigest(`sha256:${hex}`), 'a digest'),
    sizeBytes: blocks * BLOCK_SIZE_BYTES,
  };
}

function benchBlock(): AttestedBlock {
  return {
    payload: PooledBytes.unpooled(new SystemRandom().bytes(BLOCK_SIZE_BYTES)),
    attestation: { signer: new Uint8Array(32).fill(1), signature: new Uint8Array(164).fill(2) },
  };
}

/** Runs the action for 0 to count - 1, `depth` at a time. */
async function measure(
  what: string,
  { count, depth }: { count: number; depth: number },
  action: (i: number) => Promise<unknown>,
): Promise<BenchRow[]> {
  const latenciesMs: number[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) {
      const i = next++;
      const beforeMs = clock.nowMs();
      await action(i);
      latenciesMs.push(clock.nowMs() - beforeMs);
    }
  };
  const beforeMs = clock.nowMs();
  await Promise.all(Array.from({ length: depth }, worker));
  const seconds = (clock.nowMs() - beforeMs) / 1000;
  latenciesMs.sort((a, b) => a - b);
  const percentile = (share: number): number => latenciesMs[Math.floor(count * share)] ?? 0;
  const speed = (count * BLOCK_SIZE_BYTES) / MIB / seconds;
  return [
    { bench: 'store', what: `${what}, ${depth} at a time`, value: speed, unit: 'MiB/s' },
    {
      bench: 'store',
      what: `${what}, ${depth} at a time, p50`,
      value: percentile(0.5),
      unit: 'ms',
    },
    {
      bench: 'store',
      what: `${what}, ${depth} at a time, p99`,
      value: percentile(0.99),
      unit: 'ms',
    },
  ];
}

async function benchPlain(root: string, count: number): Promise<BenchRow[]> {
  const disk = new NodeDisk({ root });
  const files = await Promise.all(
    Array.from({ length: BLOB_COUNT }, (_, i) => disk.open(`file-${i}`, 'write')),
  );
  const at = (i: number) => ({
    file: defined(files[i % BLOB_COUNT], 'a file'),
    offset: Math.floor(i / BLOB_COUNT) * BLOCK_SIZE_BYTES,
  });
  const block = benchBlock();
  const target = new Uint8Array(BLOCK_SIZE_BYTES);
  const rows = await measure('plain write', { count, depth: DEPTH }, (i) =>
    at(i).file.write(block.payload.bytes, at(i).offset),
  );
  await Promise.all(files.map((file) => file.sync()));
  for (const depth of [1, DEPTH]) {
    const read = (i: number) => at(i).file.read(target, at(i).offset);
    rows.push(...(await measure('plain read', { count, depth }, read)));
  }
  await Promise.all(files.map((file) => file.close()));
  return rows;
}

async function benchBlocks(root: string, count: number): Promise<BenchRow[]> {
  const { store } = openStore(root);
  const blobs = Array.from({ length: BLOB_COUNT }, (_, i) =>
    benchBlob(i, Math.ceil(count / BLOB_COUNT)),
  );
  const blobOf = (i: number): BlobRef => defined(blobs[i % BLOB_COUNT], 'a blob');
  const indexOf = (i: number) => blockIndex(Math.floor(i / BLOB_COUNT));
  const block = benchBlock();
  await store.start();
  const rows = await measure('put', { count, depth: DEPTH }, (i) =>
    store.put(blobOf(i), indexOf(i), block),
  );
  const beforeMs = clock.nowMs();
  await store.stop();
  rows.push({
    bench: 'store',
    what: 'stop() after the puts',
    value: clock.nowMs() - beforeMs,
    unit: 'ms',
    note: 'the blocks not durable yet',
  });
  await store.start();
  for (const depth of [1, DEPTH]) {
    const get = async (i: number): Promise<void> => {
      const found = await store.get(blobOf(i), indexOf(i));
      defined(found, 'the block was put').payload.release();
    };
    rows.push(...(await measure('get', { count, depth }, get)));
  }
  await store.stop();
  return rows;
}

async function benchEviction(
  root: string,
  size: { hotBlocks: number; quotaBlocks: number; gets: number },
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const [name, quotaBytes] of [
    ['without evictions', undefined],
    ['with evictions', size.quotaBlocks * BLOCK_SIZE_BYTES],
  ] as const) {
    const { store } = openStore(join(root, name), quotaBytes);
    await store.start();
    const hot = benchBlob(0, size.hotBlocks);
    store.retain([hot.digest]);
    const block = benchBlock();
    for (let i = 0; i < size.hotBlocks; i++) await store.put(hot, blockIndex(i), block);
    const stop = new AbortController();
    const putting = putForever(store, block, { perBlob: size.quotaBlocks, signal: stop.signal });
    // Fill both stores to the quota before any measurement.
    while (store.stats().blockCount < size.quotaBlocks * 0.85) await clock.sleep(1);
    const get = async (i: number): Promise<void> => {
      const found = await store.get(hot, blockIndex((i * 7919) % size.hotBlocks));
      defined(found, 'a mounted blob stays').payload.release();
    };
    const before = store.stats().blockCount;
    rows.push(...(await measure(`hot get ${name}`, { count: size.gets, depth: 2 }, get)));
    stop.abort();
    const puts = await putting;
    rows.push({
      bench: 'store',
      what: `blocks put ${name}`,
      value: puts,
      unit: 'blocks',
      note: `${before} held at first, ${store.stats().blockCount} at last`,
    });
    await store.stop();
    await rm(join(root, name), { recursive: true });
  }
  return rows;
}

/** Puts blocks of ever new blobs until the signal; returns their number. */
async function putForever(
  store: DiskStore,
  block: AttestedBlock,
  options: { perBlob: number; signal: AbortSignal },
): Promise<number> {
  let count = 0;
  while (!options.signal.aborted) {
    const number = 1 + Math.floor(count / options.perBlob);
    const blob = benchBlob(number, options.perBlob);
    await store.put(blob, blockIndex(count % options.perBlob), block);
    count++;
    await clock.sleep(PUT_PAUSE_MS);
  }
  return count;
}

async function benchScan(root: string, count: number): Promise<BenchRow[]> {
  const { store, disk } = openStore(root);
  await writeText(disk, VERSION_FILE, VERSION_TEXT);
  const perBlob = Math.ceil(count / SCANNED_BLOBS);
  for (let i = 0; i < SCANNED_BLOBS; i++) await writeRecords(disk, benchBlob(i, perBlob));
  const beforeMs = clock.nowMs();
  await store.start();
  const tookMs = clock.nowMs() - beforeMs;
  const { blockCount } = store.stats();
  assert(blockCount === perBlob * SCANNED_BLOBS, 'the store finds all blocks');
  await store.stop();
  const what = `start() with ${blockCount} blocks`;
  return [{ bench: 'store', what, value: tookMs, unit: 'ms', note: 'records in the page cache' }];
}

async function writeText(disk: Disk, path: string, text: string): Promise<void> {
  const file = await disk.open(path, 'write');
  await file.write(new TextEncoder().encode(text), 0);
  await file.close();
}

/** Writes the records file of a blob that is present as a whole, with empty data files. */
async function writeRecords(disk: Disk, blob: BlobRef): Promise<void> {
  const codec = new NodeCodec();
  const records = new RecordCodec({ codec }, { blob });
  const count = blob.sizeBytes / BLOCK_SIZE_BYTES;
  const bytes = new Uint8Array(recordOffset(blockIndex(count)));
  bytes.set(encodeHeader(codec, blob), 0);
  const { attestation } = benchBlock();
  const record = { lengthBytes: BLOCK_SIZE_BYTES, blockDigest: new Uint8Array(32), attestation };
  for (let i = 0; i < count; i++) {
    bytes.set(records.encode(blockIndex(i), record), recordOffset(blockIndex(i)));
  }
  const paths = blobPaths(blob.digest);
  const { folder, records: path } = paths;
  await disk.makeFolder(folder);
  for (let group = 0; group * GROUP_BLOCKS < count; group++) {
    await (await disk.open(dataPath(paths, group), 'write')).close();
  }
  const file = await disk.open(path, 'write');
  await file.write(bytes, 0);
  await file.close();
}
