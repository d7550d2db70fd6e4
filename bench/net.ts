import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { blockIndex, BLOCK_SIZE_BYTES } from '../src/image/block.ts';
import { parseDigest } from '../src/image/digest.ts';
import type { BlockRequest, Transport } from '../src/transfer/contracts/transport.ts';
import type { ReadKind } from '../src/transfer/contracts/blob-reader.ts';
import type { HostAddress } from '../src/tree/messages.ts';
import { defined } from '../src/util/assert.ts';
import { GIB, KIB, MIB } from '../src/util/bytes.ts';
import type { Libp2pTransport } from '../src/net/libp2p-transport.ts';
import { benchTransport, SMALL_FROM } from './net-peer.ts';
import type { BenchRow } from './rows.ts';

/** Reads of each measurement. */
const READS = {
  full: { latency: 2_000, small: 20_000, bulk: 8_192 },
  smoke: { latency: 20, small: 64, bulk: 64 },
};

/** Reads before the first measurement: the windows of yamux and the compiler have then settled. */
const WARM_READS = { full: 500, smoke: 8 };

/**
 * Refused connections. After one more refusal by key the listener turns the address away
 * (ADDRESS_FAILURES_MAX).
 */
const REFUSALS = { full: { key: 16, door: 60 }, smoke: { key: 2, door: 2 } };

const WRONG_KEY = new Uint8Array(32).fill(8);

/** Reads in flight where a row has several: the credit of the protocol. */
const DEPTH = 32;
const BULK_DEPTH = 16;

/** Prefetches in flight at one peer: the bound of src/transfer (CORE_DEFAULTS.peerPrefetchMax). */
const PREFETCH_DEPTH = 8;

const DIGEST = defined(parseDigest(`sha256:${'0'.repeat(64)}`), 'a digest');

interface Setup {
  readonly transport: Transport;
  readonly host: HostAddress;
  readonly peer: ChildProcess;
}

/** Measures reads of blocks between two processes over loopback, with encryption. */
export async function benchNet(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  return withPeer(size, async (setup) => [
    ...(await benchLatency(setup, READS[size].latency)),
    ...(await benchSmall(setup, READS[size].small)),
    ...(await benchBulk(setup, READS[size].bulk)),
    ...(await benchMixed(setup, READS[size].latency)),
    ...(await benchRefused(setup, REFUSALS[size])),
  ]);
}

/** CPU of receiving and of sending one block of 256 KiB, in microseconds. */
export async function blockCost(options: {
  smoke: boolean;
}): Promise<{ receiveUs: number; sendUs: number }> {
  const size = options.smoke ? 'smoke' : 'full';
  return withPeer(size, async (setup) => {
    const count = READS[size].bulk;
    const { receiveSeconds, sendSeconds } = await bulkCpu(setup, count);
    return { receiveUs: (receiveSeconds / count) * 1e6, sendUs: (sendSeconds / count) * 1e6 };
  });
}

async function withPeer<T>(
  size: keyof typeof READS,
  use: (setup: Setup) => Promise<T>,
): Promise<T> {
  const peer = fork(fileURLToPath(new URL('net-peer.ts', import.meta.url)), ['--bench-peer']);
  const transport = benchTransport();
  try {
    const [host] = (await once(peer, 'message')) as [HostAddress];
    await transport.start();
    const setup = { transport, host, peer };
    await readMany(setup, WARM_READS[size], BULK_DEPTH, request('demand', BLOCK_SIZE_BYTES));
    return await use(setup);
  } finally {
    await transport.stop();
    peer.disconnect();
    await once(peer, 'exit');
  }
}

async function benchLatency(setup: Setup, count: number): Promise<BenchRow[]> {
  const large = await latencies(setup, count, BLOCK_SIZE_BYTES);
  const small = await latencies(setup, count, 4 * KIB);
  return [
    row('256 KiB read, one at a time, p50', quantile(large, 0.5), 'ms'),
    row('256 KiB read, one at a time, p99', quantile(large, 0.99), 'ms'),
    row('4 KiB read, one at a time, p50', quantile(small, 0.5), 'ms'),
    row('4 KiB read, one at a time, p99', quantile(small, 0.99), 'ms'),
  ];
}

async function benchSmall(setup: Setup, count: number): Promise<BenchRow[]> {
  const startMs = performance.now();
  await readMany(setup, count, DEPTH, request('demand', 4 * KIB));
  const seconds = (performance.now() - startMs) / 1000;
  return [row(`4 KiB reads, ${DEPTH} in flight`, count / seconds, 'reads/s')];
}

async function benchBulk(setup: Setup, count: number): Promise<BenchRow[]> {
  const { seconds, receiveSeconds, sendSeconds } = await bulkCpu(setup, count);
  const bytes = count * BLOCK_SIZE_BYTES;
  return [
    row(`256 KiB reads, ${BULK_DEPTH} in flight`, count / seconds, 'reads/s'),
    row('bulk', bytes / MIB / seconds, 'MiB/s'),
    row('bulk, receiver', receiveSeconds / (bytes / GIB), 'CPU s/GiB'),
    row('bulk, sender', sendSeconds / (bytes / GIB), 'CPU s/GiB'),
  ];
}

/** Wall-clock and CPU seconds of reading this many blocks. */
async function bulkCpu(
  setup: Setup,
  count: number,
): Promise<{ seconds: number; receiveSeconds: number; sendSeconds: number }> {
  const before = { own: ownCpuSeconds(), peer: await peerCpuSeconds(setup.peer) };
  const startMs = performance.now();
  await readMany(setup, count, BULK_DEPTH, request('demand', BLOCK_SIZE_BYTES));
  const seconds = (performance.now() - startMs) / 1000;
  const receiveSeconds = ownCpuSeconds() - before.own;
  const sendSeconds = (await peerCpuSeconds(setup.peer)) - before.peer;
  return { seconds, receiveSeconds, sendSeconds };
}

/** Demand reads while prefetches take the rest of the bandwidth. */
async function benchMixed(setup: Setup, count: number): Promise<BenchRow[]> {
  let measuring = true;
  const prefetching = Array.from({ length: PREFETCH_DEPTH }, async () => {
    while (measuring) await read(setup, request('prefetch', BLOCK_SIZE_BYTES));
  });
  const times = await latencies(setup, count, BLOCK_SIZE_BYTES);
  measuring = false;
  await Promise.all(prefetching);
  return [
    row('256 KiB demand read under full prefetch, p50', quantile(times, 0.5), 'ms'),
    row('256 KiB demand read under full prefetch, p99', quantile(times, 0.99), 'ms'),
  ];
}

/** Cost of strangers to the listener. */
async function benchRefused(
  setup: Setup,
  counts: { readonly key: number; readonly door: number },
): Promise<BenchRow[]> {
  const address = defined(setup.host.addresses[0], 'the peer listens');
  const knock = async (stranger: Libp2pTransport): Promise<void> => {
    const signal = AbortSignal.timeout(10_000);
    await stranger.identify(address, signal).catch(() => {});
  };
  const costOf = async (count: number, run: () => Promise<void>): Promise<number> => {
    const before = await peerCpuSeconds(setup.peer);
    for (let i = 0; i < count; i++) await run();
    return ((await peerCpuSeconds(setup.peer)) - before) / count;
  };
  const key = await costOf(counts.key, async () => {
    // A new peer each time: the listener would turn a known stranger away.
    const stranger = benchTransport({ clusterKey: WRONG_KEY });
    await stranger.start();
    await knock(stranger);
    await stranger.stop();
  });
  const stranger = benchTransport({ clusterKey: WRONG_KEY });
  await stranger.start();
  // From the second connection on the listener turns the peer away, and soon its address.
  await knock(stranger);
  const door = await costOf(counts.door, () => knock(stranger));
  await stranger.stop();
  return [
    row('refused connection, wrong key', 1000 * key, 'CPU ms'),
    row('refused connection, turned away', 1000 * door, 'CPU ms'),
  ];
}

async function latencies(setup: Setup, count: number, length: number): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const startMs = performance.now();
    await read(setup, request('demand', length));
    times.push(performance.now() - startMs);
  }
  return times;
}

async function readMany(
  setup: Setup,
  count: number,
  depth: number,
  wanted: BlockRequest,
): Promise<void> {
  let left = count;
  const readers = Array.from({ length: depth }, async () => {
    while (left-- > 0) await read(setup, wanted);
  });
  await Promise.all(readers);
}

async function read(setup: Setup, wanted: BlockRequest): Promise<void> {
  const { payload } = await setup.transport.requestBlock(setup.host, wanted).answer;
  payload.release();
}

function request(kind: ReadKind, length: number): BlockRequest {
  const index = blockIndex(length === BLOCK_SIZE_BYTES ? 0 : SMALL_FROM + length);
  return { digest: DIGEST, index, kind, hops: 1, timeoutMs: 30_000 };
}

function ownCpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

async function peerCpuSeconds(peer: ChildProcess): Promise<number> {
  peer.send('cpu');
  const [{ cpuSeconds }] = (await once(peer, 'message')) as [{ cpuSeconds: number }];
  return cpuSeconds;
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return defined(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))], 'values');
}

function row(what: string, value: number, unit: string): BenchRow {
  return { bench: 'net', what, value, unit };
}
