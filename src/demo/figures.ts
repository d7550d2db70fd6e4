import type { HeldBlob } from '../agent/admin/answers.ts';
import { BLOCK_SIZE_BYTES, blockIndex, blockLength } from '../image/block.ts';

/** Block bytes by source on one host. */
export type BytesBySource = Readonly<Record<string, number>>;

/** Figures of one host in one round. */
export interface HostFigures {
  readonly name: string;
  /** Milliseconds from the request to mount until the report of the program in the image. */
  readonly reportMs: number;
  readonly bytes: BytesBySource;
}

/** Totals of a round. */
export interface RoundFigures {
  /** Blob bytes that the registry sent. */
  readonly originBytes: number;
  /** Block bytes that agents received from each other. */
  readonly peerBytes: number;
  readonly ms: { readonly p50: number; readonly p99: number; readonly max: number };
}

const PEER_SOURCES = ['parent', 'alternate', 'root'] as const;

/** Bytes received from other agents. */
function peerBytes(bytes: BytesBySource): number {
  return PEER_SOURCES.reduce((sum, source) => sum + (bytes[source] ?? 0), 0);
}

/** Growth between two readings of the counters. */
export function difference(after: BytesBySource, before: BytesBySource): BytesBySource {
  return Object.fromEntries(
    Object.entries(after).map(([source, bytes]) => [source, bytes - (before[source] ?? 0)]),
  );
}

/** Nearest-rank percentile: the smallest value such that `share` of all values are at most it. */
function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
}

/** Totals of a round from the figures of its children and the registry's bytes. */
export function roundFigures(hosts: readonly HostFigures[], originBytes: number): RoundFigures {
  const ms = hosts.map((host) => host.reportMs);
  const rounded = (share: number): number => Math.round(percentile(ms, share));
  return {
    originBytes,
    peerBytes: hosts.reduce((sum, host) => sum + peerBytes(host.bytes), 0),
    ms: { p50: rounded(0.5), p99: rounded(0.99), max: rounded(1) },
  };
}

/** Bytes of the distinct blocks that the hosts hold together. */
export function distinctBytes(hosts: readonly (readonly HeldBlob[])[]): number {
  const seen = new Set<string>();
  let bytes = 0;
  for (const { digest, sizeBytes, blocks } of hosts.flat()) {
    for (const [first, count] of blocks) {
      for (let index = first; index < first + count; index++) {
        const name = `${digest}/${index}`;
        if (seen.has(name)) continue;
        seen.add(name);
        bytes += blockLength(sizeBytes, blockIndex(index));
      }
    }
  }
  return bytes;
}

const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);

/** The columns of a table behind the hosts' names, in words. */
const COLUMNS: Readonly<Record<string, string>> = {
  memory: 'read again from memory: these bytes came before, and count there too',
  disk: 'read again from the store on disk, likewise',
  parent: 'from the parent in the tree',
  alternate: 'from another host of the tree, since the parent was late or away',
  root: 'from a root, past the tree',
  origin: 'from the registry, by the root that owns the block',
  fallback: 'from the registry, by the host itself as a last resort',
  'own-way': 'from the registry, by the host itself, for a blob that no root reaches',
  'report ms': 'from the request to mount until the report of the program in the image',
};
const TIME_COLUMN = 'report ms';

/** What the columns of the tables mean. */
export function tableLegend(): string {
  const width = Math.max(...Object.keys(COLUMNS).map((name) => name.length));
  return Object.entries(COLUMNS)
    .map(([name, words]) => `  ${name.padEnd(width)}  ${words}`)
    .join('\n');
}

/** The table of one round: a line per host, with MiB by source. */
export function roundTable(title: string, hosts: readonly HostFigures[]): string {
  const sources = Object.keys(COLUMNS).filter((name) => name !== TIME_COLUMN);
  const header = ['host', ...sources, TIME_COLUMN];
  const rows = hosts.map((host) => [
    host.name,
    ...sources.map((source) => mib(host.bytes[source] ?? 0)),
    host.reportMs > 0 ? String(Math.round(host.reportMs)) : '-',
  ]);
  const widths = header.map((name, i) =>
    Math.max(name.length, ...rows.map((row) => row[i]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  ');
  return [`${title} (MiB of blocks by source)`, line(header), ...rows.map(line)].join('\n');
}

/** Block size in KiB, for the legend under the table. */
export const BLOCK_KIB = BLOCK_SIZE_BYTES / 1024;
