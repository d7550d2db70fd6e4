import fc from 'fast-check';
import type { ByteString, TarEntry, TarItem } from '../../../src/convert/tar/tar-entry.ts';

/** An entry and its data; what is not given has a default. */
export interface Init extends Partial<TarEntry> {
  readonly path: ByteString;
  readonly data?: Uint8Array;
}

function item({ data = new Uint8Array(0), ...init }: Init): TarItem {
  const entry: TarEntry = {
    type: 'file',
    linkTarget: '',
    mode: init.type === 'directory' ? 0o755 : 0o644,
    uid: 0,
    gid: 0,
    mtime: { seconds: 1000, nanoseconds: 0 },
    deviceMajor: 0,
    deviceMinor: 0,
    xattrs: new Map(),
    sizeBytes: data.length,
    dataRuns: data.length === 0 ? [] : [{ offset: 0, length: data.length }],
    ...init,
  };
  async function* content(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < data.length; at += 100_000) yield data.subarray(at, at + 100_000);
  }
  return { entry, content: content() };
}

/** The entries of a layer, as a reader of its tar gives them. */
export async function* items(layer: readonly Init[]): AsyncGenerator<TarItem, void> {
  for (const init of layer) yield item(init);
}

/** Bytes that differ from block to block, and by the seed. */
export const bytes = (length: number, seed = 1): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 17 + (i >>> 8)) & 0xff);

const name = fc.constantFrom('a', 'b', 'c', 'd');
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((names) => names.join('/'));
const time = fc.record({
  seconds: fc.constantFrom(-(2 ** 31), -1, 0, 2 ** 31, 2 ** 32, 2 ** 33, 1_700_000_000),
  nanoseconds: fc.nat(999_999_999),
});
const xattrs = fc
  .array(fc.tuple(fc.constantFrom('user.a', 'user.bb', 'security.x', 'trusted.y'), fc.nat(90)), {
    maxLength: 3,
  })
  .map((pairs) => new Map(pairs.map(([key, length]) => [key, bytes(length)])));
const base = fc.record({
  path,
  mode: fc.constantFrom(0o644, 0o755, 0o4755, 0o1777, 0),
  uid: fc.constantFrom(0, 65_536, 2 ** 32 - 2),
  mtime: time,
  xattrs,
});
const change = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(base, fc.nat(20_000)).map(fileOf) },
  { weight: 3, arbitrary: base.map((each): Init => ({ ...each, type: 'directory' })) },
  { weight: 2, arbitrary: fc.tuple(base, path).map(linkOf('symlink')) },
  { weight: 2, arbitrary: fc.tuple(base, path).map(linkOf('hardlink')) },
  { weight: 1, arbitrary: base.map((each): Init => ({ ...each, type: 'fifo' })) },
  { weight: 2, arbitrary: path.map(whiteoutOf) },
  {
    weight: 1,
    arbitrary: path.map((each): Init => ({ path: `${each}/.wh..wh..opq` })),
  },
);

function fileOf([each, length]: [Omit<Init, 'data'>, number]): Init {
  return { ...each, path: each.path, data: bytes(length) };
}

function linkOf(type: 'symlink' | 'hardlink') {
  return ([each, target]: [Omit<Init, 'data'>, string]): Init => ({
    ...each,
    path: each.path,
    type,
    linkTarget: target,
  });
}

function whiteoutOf(each: string): Init {
  const names = each.split('/');
  return { path: [...names.slice(0, -1), `.wh.${names.at(-1)}`].join('/') };
}

/** Layers of entries that replace, hide and link to each other. */
export const anyLayers = fc.array(fc.array(change, { maxLength: 14 }), {
  minLength: 1,
  maxLength: 4,
});
