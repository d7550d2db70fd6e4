import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readTar } from '../../../src/convert/tar/read-tar.ts';
import type { TarEntryType } from '../../../src/convert/tar/tar-entry.ts';
import {
  tarEnd,
  tarHeader,
  tarPadding,
  type WrittenEntry,
} from '../../../src/convert/tar/write-tar.ts';

const bytes = (max: number) =>
  fc
    .array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: max })
    .map((codes) => String.fromCharCode(...codes));
const time = fc.record({
  seconds: fc.integer({ min: -(2 ** 31), max: 2 ** 34 }),
  nanoseconds: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 999_999_999 })),
});
const id = fc.oneof(fc.nat(8 ** 7), fc.integer({ min: 0, max: 2 ** 32 - 2 }));
const types: TarEntryType[] = ['file', 'directory', 'symlink', 'hardlink', 'fifo'];
const entry: fc.Arbitrary<WrittenEntry> = fc.record({
  type: fc.constantFrom(...types),
  path: bytes(300).map((path) => path.replace(/\/*$/, 'x')),
  linkTarget: bytes(300),
  mode: fc.nat(0o7777),
  uid: id,
  gid: id,
  mtime: time,
  deviceMajor: fc.constant(0),
  deviceMinor: fc.constant(0),
  xattrs: fc
    .dictionary(fc.stringMatching(/^user\.[a-z]{1,9}$/), fc.uint8Array({ maxLength: 40 }))
    .map((found) => new Map(Object.entries(found))),
  sizeBytes: fc.nat(2000),
});

async function* of(pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* pieces;
}

describe('tarHeader()', () => {
  it('writes what readTar() reads', async () => {
    const property = fc.asyncProperty(entry, async (made) => {
      const isLink = made.type === 'symlink' || made.type === 'hardlink';
      const given: WrittenEntry = {
        ...made,
        linkTarget: isLink ? made.linkTarget : '',
        sizeBytes: made.type === 'file' ? made.sizeBytes : 0,
      };
      const content = new Uint8Array(given.sizeBytes).fill(7);
      const archive = [tarHeader(given), content, tarPadding(content.length), tarEnd()];
      let count = 0;
      for await (const item of readTar(of(archive))) {
        const { dataRuns, ...read } = item.entry;
        expect(read).toMatchObject(given);
        expect(dataRuns.reduce((sum, { length }) => sum + length, 0)).toBe(given.sizeBytes);
        count++;
      }
      expect(count).toBe(1);
    });
    await fc.assert(property, { numRuns: 300 });
  });

  it('has room for large files', () => {
    const header = tarHeader({
      ...{ type: 'file', path: 'a', linkTarget: '', mode: 0o644, uid: 0, gid: 0 },
      mtime: { seconds: 0, nanoseconds: 0 },
      ...{ deviceMajor: 0, deviceMinor: 0, xattrs: new Map(), sizeBytes: 2 ** 40 },
    });
    expect(Buffer.from(header).toString('latin1')).toContain('22 size=1099511627776\n');
  });
});
