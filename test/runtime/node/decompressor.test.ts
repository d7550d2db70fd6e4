import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import type { Compression } from '../../../src/runtime/decompressor.ts';
import { NodeDecompressor } from '../../../src/runtime/node/decompressor.ts';

const decompressor = new NodeDecompressor();
const text = (bytes: Iterable<Uint8Array>): string => Buffer.concat([...bytes]).toString('latin1');

async function* cut(bytes: Uint8Array, at: number): AsyncGenerator<Uint8Array, void> {
  yield await Promise.resolve(bytes.subarray(0, at));
  yield bytes.subarray(at);
}

async function decoded(
  compression: Compression,
  chunks: AsyncIterable<Uint8Array>,
): Promise<string> {
  const pieces: Uint8Array[] = [];
  for await (const piece of decompressor.decompress(compression, chunks)) pieces.push(piece);
  return text(pieces);
}

const SKIPPABLE = Buffer.from([0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
const EMPTY_SKIPPABLE = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
const big = Buffer.alloc(400_000, 'abcdefghijk');

const STREAMS: readonly (readonly [string, Compression, Buffer, string])[] = [
  ['gzip members', 'gzip', Buffer.concat([gzipSync('aa'), gzipSync(''), gzipSync('bb')]), 'aabb'],
  ['gzip with zeros behind', 'gzip', Buffer.concat([gzipSync('aa'), Buffer.alloc(9)]), 'aa'],
  [
    'zstd frames',
    'zstd',
    Buffer.concat([zstdCompressSync('aa'), zstdCompressSync(''), zstdCompressSync('bb')]),
    'aabb',
  ],
  [
    'zstd frames among skippable ones',
    'zstd',
    Buffer.concat([
      ...[SKIPPABLE, zstdCompressSync('aa'), EMPTY_SKIPPABLE, SKIPPABLE],
      ...[zstdCompressSync(big), SKIPPABLE],
    ]),
    `aa${big.toString('latin1')}`,
  ],
];

describe('NodeDecompressor', () => {
  it.each(STREAMS)('reads %s, however they are cut', async (_, compression, bytes, expected) => {
    for (let at = 0; at <= bytes.length; at++) {
      expect((await decoded(compression, cut(bytes, at))) === expected, `cut at ${at}`).toBe(true);
    }
  });

  it.each(STREAMS.filter(([name]) => !name.includes('zeros')))(
    'refuses %s that end too early',
    async (_, compression, bytes) => {
      await expect(decoded(compression, cut(bytes.subarray(0, -1), 5))).rejects.toThrow();
    },
  );

  it('refuses damaged streams', async () => {
    const gzip = gzipSync(big);
    gzip[gzip.length - 5] = (gzip[gzip.length - 5] ?? 0) ^ 1;
    await expect(decoded('gzip', cut(gzip, 9))).rejects.toThrow();
    const zstd = Buffer.concat([zstdCompressSync(big), Buffer.from('no frame')]);
    await expect(decoded('zstd', cut(zstd, 9))).rejects.toThrow('no zstd frame');
  });

  it('takes a zstd window of 128 MiB, and refuses a larger one', async () => {
    // An empty frame: no sizes in its header, the window's exponent from 10 on, one last block.
    const frame = (exponent: number): Uint8Array =>
      new Uint8Array([0x28, 0xb5, 0x2f, 0xfd, 0, (exponent - 10) << 3, 1, 0, 0]);
    expect(await decoded('zstd', cut(frame(27), 9))).toBe('');
    await expect(decoded('zstd', cut(frame(28), 9))).rejects.toThrow();
  });

  it.each(['gzip', 'zstd'] as const)('throws what the source of %s throws', async (compression) => {
    const failure = new Error('connection lost');
    async function* source(): AsyncGenerator<Uint8Array, void> {
      yield await Promise.resolve(compression === 'gzip' ? gzipSync('a') : zstdCompressSync('a'));
      throw failure;
    }
    await expect(decoded(compression, source())).rejects.toBe(failure);
  });

  it('ends its source when its reader stops', async () => {
    let hasEnded = false;
    async function* source(): AsyncGenerator<Uint8Array, void> {
      try {
        for (;;) yield await Promise.resolve(gzipSync(big));
      } finally {
        hasEnded = true;
      }
    }
    for await (const piece of decompressor.decompress('gzip', source())) if (piece.length) break;
    await expect.poll(() => hasEnded).toBe(true);
  });
});
