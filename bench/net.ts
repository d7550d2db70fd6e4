import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { blockIndex, BLOCK_SIZE_BYTES } from '../src/image/block.ts';
import { parseDigest } from '../src/image/digest.ts';
import type { BlockRequest, Transport } from '../src/transfer/transport.ts';
import type { ReadKind } from '../src/transfer/blob-reader.ts';
import type { HostAddress } from '../src/tree/messages.ts';
import { defined } from '../src/util/assert.ts';
import { GIB, KIB, MIB } from '../src/util/bytes.ts';
import { benchTransport, SMALL_FROM } from './net-peer.ts';
import type { BenchRow } from './rows.ts';

/** Reads of each measurement. */
const READS = {
  full: { latency: 2_000, small: 20_000, bulk: 8_192 },
  smoke: { latency: 20, small: 64, bulk: 64 },
};

/** Reads before the first measurement: the windows of yamux and the compiler have then settled. */
const WARM_READS = { full: 500, smoke: 8 };

/** Reads in flight where several are: what the credit of the protocol allows. */
const DEPTH = 32;
const BULK_DEPTH = 16;

/** Prefetches in flight at one peer: what src/transfer allows (CORE_DEFAULTS.peerPrefetchMax). */
const PREFETCH_DEPTH = 8;

const DIGEST = defined(parseDigest(`sha256:${'0'.repeat(64)}`), 'a digest');

interface Setup {
  readonly transport: Transport;
  readonly host: HostAddress;
  readonly peer: ChildProcess;
}

/** Reads of blocks between two processes over loopback, with encryption. */
export async function benchNet(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  const peer = fork(fileURLToPath(new URL('net-peer.ts', import.meta.url)), ['--bench-peer']);
  const transport = benchTransport();
  try {
    const [host] = (await once(peer, 'message')) as [HostAddress];
    await transport.start();
    const setup = { transport, host, peer };
    await readMany(setup, WARM_READS[size], BULK_DEPTH, request('demand', BLOCK_SIZE_BYTES));
    return [
      ...(await benchLatency(setup, READS[size].latency)),
      ...(await benchSmall(setup, READS[size].small)),
      ...(await benchBulk(setup, READS[size].bulk)),
      ...(await benchMixed(setup, READS[size].latency)),
    ];
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
  const before = { own: ownCpuSeconds(), peer: await peerCpuSeconds(setup.peer) };
  const startMs = performance.now();
  await readMany(setup, count, BULK_DEPTH, request('demand', BLOCK_SIZE_BYTES));
  const seconds = (performance.now() - startMs) / 1000;
  const bytes = count * BLOCK_SIZE_BYTES;
  const receive = ownCpuSeconds() - before.own;
  const send = (await peerCpuSeconds(setup.peer)) - before.peer;
  return [
    row(`256 KiB reads, ${BULK_DEPTH} in flight`, count / seconds, 'reads/s'),
    row('bulk', bytes / MIB / seconds, 'MiB/s'),
    row('bulk, receiver', receive / (bytes / GIB), 'CPU s/GiB'),
    row('bulk, sender', send / (bytes / GIB), 'CPU s/GiB'),
  ];
}

/** Demand reads while prefetches take all the bandwidth that they get. */
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
