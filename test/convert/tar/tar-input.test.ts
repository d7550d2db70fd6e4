import { describe, expect, it } from 'vitest';
import { tarItems } from '../../../src/convert/tar/read-tar.ts';
import { TarFileInput } from '../../../src/convert/tar/tar-input.ts';
import { memorySource } from '../../../src/image/byte-source.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { bytesOf, END, gnuLong, joined, member, pax } from '../../kit/tar-encoder.ts';
import { chunksOf, readAll } from './kit.ts';

const { signal } = new AbortController();
const LIMITS = { entryCountMax: 100 };

const ARCHIVE = joined(
  member({ path: 'small' }, bytesOf('one')),
  gnuLong('L', 'folder/'.repeat(30)),
  member({ path: 'long' }, sampleBytes(5_000_000, 1)),
  pax([['path', 'attributes'], ...records(20)]),
  member({ path: 'x' }, sampleBytes(16 * 1024 + 1, 2)),
  member({ path: 'link', type: '2', linkTarget: 'small' }),
  member({ path: 'last' }, bytesOf('three')),
  END,
);

/** Extended attributes that have more bytes than are read of a file at a time. */
function records(count: number): (readonly [string, string])[] {
  return Array.from({ length: count }, (_, i) => [`SCHILY.xattr.user.${i}`, 'v'.repeat(2000)]);
}

/** A source that counts what is read of it. */
function watched(bytes: Uint8Array) {
  const source = memorySource(bytes);
  const read = { bytes: 0 };
  const input = new TarFileInput(
    {
      sizeBytes: source.sizeBytes,
      read: (offset, length) => {
        read.bytes += length;
        return source.read(offset, length);
      },
    },
    signal,
  );
  return { input, read };
}

describe('TarFileInput', () => {
  it('gives the entries and the data that a stream gives', async () => {
    const { input } = watched(ARCHIVE);
    const found: object[] = [];
    for await (const { entry, content } of tarItems(input, LIMITS)) {
      const pieces: Uint8Array[] = [];
      for await (const piece of content) pieces.push(piece);
      found.push({ entry, digest: digestOf(Buffer.concat(pieces)) });
    }
    const streamed = await readAll(chunksOf(ARCHIVE, 1000));
    expect(found).toEqual(streamed.map(({ entry, data }) => ({ entry, digest: digestOf(data) })));
  });

  it('stands at the data of each entry, and reads none that nobody wants', async () => {
    const { input, read } = watched(ARCHIVE);
    const starts = new Map<string, string>();
    for await (const { entry } of tarItems(input, LIMITS)) {
      const start = ARCHIVE.subarray(input.offset, input.offset + 5);
      starts.set(entry.path, Buffer.from(start).toString('latin1'));
    }
    expect(starts.get('small')).toBe('one\0\0');
    expect(starts.get('last')).toBe('three');
    expect(starts.size).toBe(5);
    expect(read.bytes).toBeLessThan(200_000);
  });

  it('needs no full last block', async () => {
    const { length } = ARCHIVE;
    const full = length - ARCHIVE.toReversed().findIndex((byte) => byte !== 0);
    for (const end of [full, full + 1, length]) {
      const { input } = watched(ARCHIVE.subarray(0, end));
      const paths: string[] = [];
      for await (const { entry } of tarItems(input, LIMITS)) paths.push(entry.path);
      expect(paths).toHaveLength(5);
    }
  });

  it('finds an archive that ends within an entry, wherever', async () => {
    for (const end of [100, 512 + 2, 2000, 3_000_000, ARCHIVE.length - 1600]) {
      const { input } = watched(ARCHIVE.subarray(0, end));
      const all = async (): Promise<void> => {
        for await (const _ of tarItems(input, LIMITS));
      };
      await expect(all()).rejects.toThrow('the archive ends within it');
    }
  });
});
