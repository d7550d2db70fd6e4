import { describe, expect, it } from 'vitest';
import { parseDigest, type Digest } from '../../../src/image/digest.ts';
import { BlobTable } from '../../../src/transfer/core/blob-table.ts';
import { defined } from '../../../src/util/assert.ts';

function digest(n: number): Digest {
  return defined(parseDigest(`sha256:${n.toString(16).padStart(64, '0')}`), 'a digest');
}

function make(init: { blobsMax?: number; idleMax?: number } = {}) {
  const forgotten: Digest[] = [];
  const table = new BlobTable<string>({
    blobsMax: init.blobsMax ?? 4,
    idleMax: init.idleMax ?? 4,
    onForget: (blob) => forgotten.push(blob.ref.digest),
  });
  const add = (n: number, sizeBytes = 100) => table.add({ digest: digest(n), sizeBytes });
  return { table, add, forgotten };
}

describe('BlobTable', () => {
  it('BlobTable.add() at the bound forgets the least recently used blob, never one in use', () => {
    const { table, add, forgotten } = make();
    table.hold(add(0));
    for (const n of [1, 2, 3]) add(n);
    table.touch(add(1));
    add(4);
    expect(forgotten).toEqual([digest(2)]);
    expect(table.get(digest(0))).toBeDefined();
  });

  it('BlobTable.add() says overloaded when all blobs are in use, until the first is let go', () => {
    const { table, add } = make();
    const held = [0, 1, 2, 3].map((n) => add(n));
    for (const blob of held) table.hold(blob);
    expect(() => add(4)).toThrow(expect.objectContaining({ code: 'overloaded' }));
    table.letGo(defined(held[2], 'a blob'));
    expect(add(4).id).toBe(2);
    expect(table.get(digest(2))).toBeUndefined();
  });

  it('BlobTable gives the numbers of forgotten blobs again, however many come and go', () => {
    const { table, add } = make({ idleMax: 2 });
    for (let n = 0; n < 1000; n++) expect(add(n).id).toBeLessThan(4);
    expect(table.count).toBe(2);
    expect(new Set([...table.values()].map(({ id }) => id)).size).toBe(2);
  });

  it('BlobTable.add() refuses another size while the known one is used, and takes it after', () => {
    const { table, add } = make();
    const blob = add(1, 100);
    table.hold(blob);
    expect(() => add(1, 200)).toThrow(
      expect.objectContaining({ detail: { code: 'size-differs', knownSizeBytes: 100 } }),
    );
    table.letGo(blob);
    expect(add(1, 200).ref.sizeBytes).toBe(200);
    table.confirm({ digest: digest(1), sizeBytes: 300 });
    expect(() => add(1, 200)).toThrow(expect.objectContaining({ code: 'size-differs' }));
    expect(add(1, 300).confirmed).toBe(true);
  });

  it('BlobTable.confirm() hands the uses over to the blob of the right size', () => {
    const { table, add, forgotten } = make({ idleMax: 1 });
    table.hold(add(1, 100));
    table.confirm({ digest: digest(1), sizeBytes: 200 });
    expect(forgotten).toEqual([digest(1)]);
    add(2);
    add(3);
    expect(table.get(digest(1))?.uses).toBe(1);
  });

  it.each([-1, 1.5, Number.NaN, 2 ** 41, 0])(
    'BlobTable.add() refuses a size of %d',
    (sizeBytes) => {
      const { table, add } = make();
      expect(() => add(1, sizeBytes)).toThrow(expect.objectContaining({ code: 'range' }));
      expect(table.count).toBe(0);
    },
  );

  it('BlobTable.add() takes a size of 0 for the digest of nothing alone', () => {
    const hex = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
    const empty = defined(parseDigest(`sha256:${hex}`), 'a digest');
    const { table } = make();
    expect(table.add({ digest: empty, sizeBytes: 0 }).stripes).toBe(1);
  });
});
