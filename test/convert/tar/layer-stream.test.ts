import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { layerTar } from '../../../src/convert/tar/layer-stream.ts';
import { NodeDecompressor } from '../../../src/runtime/node/decompressor.ts';
import { END, joined, member, bytesOf } from '../../kit/tar-encoder.ts';
import { chunksOf, readAll } from './kit.ts';

const decompressor = new NodeDecompressor();
const tar = joined(member({ path: 'a' }, bytesOf('abc')), member({ path: 'b' }), END);
const SKIPPABLE = new Uint8Array([0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9]);

async function allOf(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of chunks) pieces.push(piece);
  return new Uint8Array(Buffer.concat(pieces));
}

describe('layerTar()', () => {
  it.each([
    ['a plain tar', tar],
    ['gzip', gzipSync(tar)],
    ['zstd', zstdCompressSync(tar)],
    ['zstd behind a skippable frame', joined(SKIPPABLE, zstdCompressSync(tar))],
    ['gzip members', joined(gzipSync(tar.subarray(0, 99)), gzipSync(tar.subarray(99)))],
    [
      'zstd frames',
      joined(zstdCompressSync(tar.subarray(0, 99)), zstdCompressSync(tar.subarray(99))),
    ],
  ])('reads %s', async (_, bytes) => {
    for (const size of [1, 3, 50, bytes.length]) {
      expect(await allOf(layerTar(decompressor, chunksOf(bytes, size)))).toEqual(tar);
    }
    const entries = await readAll(layerTar(decompressor, chunksOf(bytes, 7)));
    expect(entries.map(({ entry }) => entry.path)).toEqual(['a', 'b']);
  });

  it('passes what is shorter than a magic', async () => {
    expect(await allOf(layerTar(decompressor, chunksOf(bytesOf('ab'), 1)))).toEqual(bytesOf('ab'));
    expect(await allOf(layerTar(decompressor, chunksOf(bytesOf(''))))).toEqual(bytesOf(''));
  });

  it.each([
    ['gzip', gzipSync(tar)],
    ['zstd', zstdCompressSync(tar)],
  ])('refuses %s that is cut short', async (name, bytes) => {
    await expect(
      allOf(layerTar(decompressor, chunksOf(bytes.subarray(0, -2), 10))),
    ).rejects.toMatchObject({ code: 'tar', message: expect.stringContaining(name) as string });
  });

  it.each([
    ['a plain tar', tar],
    ['gzip', gzipSync(tar)],
  ])('throws what the source of %s throws, and ends it', async (_, bytes) => {
    const failure = new Error('connection lost');
    let ends = 0;
    async function* source(fails: boolean): AsyncGenerator<Uint8Array, void> {
      try {
        yield await Promise.resolve(bytes);
        if (fails) throw failure;
        yield new Uint8Array(9);
      } finally {
        ends++;
      }
    }
    await expect(allOf(layerTar(decompressor, source(true)))).rejects.toBe(failure);
    for await (const piece of layerTar(decompressor, source(false))) if (piece.length > 0) break;
    await expect.poll(() => ends).toBe(2);
  });
});
