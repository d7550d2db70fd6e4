import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES } from '../../../src/convert/ext4/block-file.ts';
import { Directory, type DirectoryBlocks } from '../../../src/convert/ext4/directory.ts';

/** Blocks of one directory in memory, with a hash that often gives two names the same. */
class MemoryBlocks implements DirectoryBlocks {
  readonly blocks = new Map<number, Uint8Array>();
  readonly written: number[] = [];
  readonly #spread: number;

  constructor(spread: number) {
    this.#spread = spread;
  }

  read(index: number): Uint8Array {
    const bytes = this.blocks.get(index);
    if (bytes === undefined) throw new Error(`block ${index} was never written`);
    return bytes;
  }

  write(index: number, bytes: Uint8Array): void {
    expect(bytes).toHaveLength(BLOCK_BYTES);
    this.written.push(index);
    this.blocks.set(index, Uint8Array.from(bytes));
  }

  hash(name: string): number {
    let hash = 17;
    for (let i = 0; i < name.length; i++) hash = (hash * 31 + name.charCodeAt(i)) >>> 0;
    return ((hash % this.#spread) * 2) >>> 0;
  }
}

const PLACE = { self: 12, parent: 2 };

/** Saves, and reads again what was saved. */
function reload(blocks: MemoryBlocks, directory: Directory): Directory {
  directory.save();
  const { blockCount, isIndexed } = directory;
  expect(blocks.blocks.size).toBe(blockCount);
  return Directory.load(blocks, { self: PLACE.self, blockCount, isIndexed });
}

function namesOf(directory: Directory): Map<string, number> {
  return new Map([...directory.entries()].map(([name, { inode }]) => [name, inode]));
}

/**
 * Finds a name as the kernel does: by its hash through the index, and on while hashes are equal.
 */
function kernelFinds(blocks: MemoryBlocks, name: string): boolean {
  const hash = blocks.hash(name);
  const view = (index: number): DataView => new DataView(blocks.read(index).buffer);
  const rows = (index: number, offset: number): { key: number; block: number }[] => {
    const node = view(index);
    return Array.from({ length: node.getUint16(offset + 2, true) }, (_, i) => ({
      key: i === 0 ? 0 : node.getUint32(offset + 8 * i, true),
      block: node.getUint32(offset + 8 * i + 4, true),
    }));
  };
  const levels = view(0).getUint8(30);
  let leaves = rows(0, 32);
  if (levels === 1) {
    leaves = leaves.flatMap(({ key, block }) =>
      rows(block, 8).map((row, i) => (i === 0 ? { ...row, key } : row)),
    );
  }
  let at = leaves.findLastIndex(({ key }) => key <= hash);
  do {
    const leaf = leaves[at];
    if (leaf === undefined) return false;
    if (listed(blocks.read(leaf.block)).includes(name)) return true;
    at++;
  } while (leaves[at] !== undefined && leaves[at]!.key === hash + 1);
  return false;
}

/** Names in a leaf, whose entries fill it exactly. */
function listed(bytes: Uint8Array): string[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const names: string[] = [];
  let offset = 0;
  while (offset < BLOCK_BYTES) {
    const length = view.getUint16(offset + 4, true);
    expect(length).toBeGreaterThanOrEqual(8);
    const nameLength = bytes[offset + 6] ?? 0;
    const name = Buffer.from(bytes.subarray(offset + 8, offset + 8 + nameLength));
    if (view.getUint32(offset, true) !== 0) names.push(name.toString('latin1'));
    offset += length;
  }
  expect(offset).toBe(BLOCK_BYTES);
  return names;
}

describe('Directory', () => {
  it('keeps what was added, whatever the order of changes, and finds it by hash', () => {
    const name = fc
      .tuple(fc.nat(400), fc.constantFrom(1, 7, 60, 251))
      .map(([n, length]) => String(n).padStart(Math.max(4, length), 'x'));
    const step = fc.record({ name, isRemoved: fc.boolean() });
    const rounds = fc.array(fc.array(step, { maxLength: 150 }), { maxLength: 6 });
    fc.assert(
      fc.property(rounds, fc.constantFrom(1, 3, 2 ** 31 - 1), (all, spread) => {
        const blocks = new MemoryBlocks(spread);
        const model = new Map<string, number>();
        let directory = Directory.make(blocks, PLACE);
        for (const [round, steps] of all.entries()) {
          for (const [i, { name: one, isRemoved }] of steps.entries()) {
            if (model.has(one) && isRemoved) {
              directory.remove(one);
              model.delete(one);
            } else if (!model.has(one) && !isRemoved) {
              const inode = 100 + round * 1000 + i;
              directory.add(one, { inode, type: 1 });
              model.set(one, inode);
            }
          }
          directory = reload(blocks, directory);
          expect(namesOf(directory)).toEqual(model);
          expect(directory.parent).toBe(PLACE.parent);
          if (!directory.isIndexed) continue;
          for (const one of model.keys()) expect(kernelFinds(blocks, one), one).toBe(true);
        }
      }),
      { numRuns: 60 },
    );
  });

  it('has nodes under its root when it has more leaves than the root can name', () => {
    const blocks = new MemoryBlocks(2 ** 31 - 1);
    let directory = Directory.make(blocks, PLACE);
    const names = Array.from({ length: 9000 }, (_, i) => `${i}`.padStart(240, 'n'));
    for (const one of names) directory.add(one, { inode: 100, type: 1 });
    directory = reload(blocks, directory);
    expect(blocks.read(0)[30]).toBe(1);
    for (const one of names) expect(kernelFinds(blocks, one)).toBe(true);
    for (let i = 0; i < 3000; i++) directory.add(`${i}`.padStart(240, 'm'), { inode: 7, type: 1 });
    directory = reload(blocks, directory);
    expect(directory.count).toBe(12_000);
    for (let i = 0; i < 3000; i += 50) {
      expect(kernelFinds(blocks, `${i}`.padStart(240, 'm'))).toBe(true);
    }
  });

  it('writes one leaf when one name is added, and nothing when nothing changed', () => {
    const blocks = new MemoryBlocks(2 ** 31 - 1);
    let directory = Directory.make(blocks, PLACE);
    for (let i = 0; i < 2000; i++) directory.add(`file-${i}`, { inode: 100 + i, type: 1 });
    directory = reload(blocks, directory);
    blocks.written.length = 0;
    directory.save();
    expect(blocks.written).toEqual([]);
    directory.add('one more', { inode: 99, type: 1 });
    directory.save();
    // The root is written too, with the bytes that it has.
    expect(blocks.written).toHaveLength(2);
  });

  it('refuses a damaged block', () => {
    const blocks = new MemoryBlocks(1);
    const directory = Directory.make(blocks, PLACE);
    directory.add('a', { inode: 100, type: 1 });
    directory.save();
    blocks.read(0)[28] = 3;
    const load = (): unknown =>
      Directory.load(blocks, { self: 12, blockCount: 1, isIndexed: false });
    expect(load).toThrow('directory 12 of the file system is damaged');
  });
});
