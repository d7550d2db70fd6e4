import type { ByteRange } from '../image/byte-source.ts';
import { damaged } from '../image/errors.ts';
import type { Layer } from '../image/layer.ts';
import { SECTOR_BYTES } from '../image/lsmt-header.ts';
import type { Hash } from '../runtime/codec.ts';
import { bytesEqual } from '../util/bytes.ts';
import { ContentDigest } from './check/content-digest.ts';
import type { Inode } from './check/ext4-inode.ts';
import type { Ext4Layout } from './check/ext4-layout.ts';
import { ROOT_INODE, type Ext4Reader } from './check/ext4-reader.ts';
import type { ByteString } from './tar/tar-entry.ts';

/** The file system that a layer lies over, and what the layer has anew. */
export interface Changes {
  readonly hash: Hash;
  readonly reader: Ext4Reader;
  /** Whether the layer has bytes in this range of the device; undefined: as if everywhere. */
  readonly touches: ((range: ByteRange) => boolean) | undefined;
}

/** What a layer changes of a file system, to that of `upper`. */
export function changesOf(
  { hash }: { readonly hash: Hash },
  { lower, upper }: { readonly lower: Ext4Reader; readonly upper: Ext4Reader },
  { segments }: Layer,
): Changes {
  const touches = ({ offset, length }: ByteRange): boolean => {
    const row = segments.rowAfter(Math.floor(offset / SECTOR_BYTES));
    return row < segments.count && (segments.offsets[row] ?? 0) * SECTOR_BYTES < offset + length;
  };
  const isAlike = hasSameLayout(lower.layout, upper.layout);
  return { hash, reader: lower, touches: isAlike ? touches : undefined };
}

function hasSameLayout(one: Ext4Layout, other: Ext4Layout): boolean {
  return (
    one.blockSizeBytes === other.blockSizeBytes &&
    one.inodeCount === other.inodeCount &&
    one.inodeSizeBytes === other.inodeSizeBytes &&
    one.inodesPerGroup === other.inodesPerGroup &&
    one.inodeTables.every((block, i) => block === other.inodeTables[i])
  );
}

/** Whether a layer has an inode anew; else both sides have the same. */
export function isTouched({ reader, touches }: Changes, { number }: Inode): boolean {
  return touches === undefined || touches(reader.placeOf(number));
}

/** The paths of the files with several names, by their inodes. */
type Links = ReadonlyMap<number, readonly ByteString[]>;

/** A file system is the upper one of a layer, and the lower one of the next. */
const KNOWN_LINKS = new WeakMap<Ext4Reader, Links>();

/**
 * Tells what of a file system is as it was in the one below its topmost layer. Content that the
 * layer does not touch is not read.
 */
export class Ext4Changes {
  readonly #over: Changes;
  readonly #upper: Ext4Reader;
  readonly #links: { readonly lower: Links; readonly upper: Links };
  /** Of files with several names, whether they are kept: all names of one are, or none. */
  readonly #kept = new Map<number, boolean>();

  private constructor(
    over: Changes,
    upper: Ext4Reader,
    links: { readonly lower: Links; readonly upper: Links },
  ) {
    this.#over = over;
    this.#upper = upper;
    this.#links = links;
  }

  /** Looks for hard links on both sides. Throws ImageError, or the signal's reason. */
  static async of(
    over: Changes,
    upper: Ext4Reader,
    { signal }: { readonly signal: AbortSignal },
  ): Promise<Ext4Changes> {
    const links = {
      lower: await linksIn(over.reader, signal),
      upper: await linksIn(upper, signal),
    };
    return new Ext4Changes(over, upper, links);
  }

  /** Whether what is no directory is as it was, with all its names. */
  async isKept(lower: Inode, upper: Inode): Promise<boolean> {
    if (lower.linkCount !== upper.linkCount) return false;
    if (upper.linkCount === 1) return this.#isSame(lower, upper);
    const known = this.#kept.get(upper.number);
    if (known !== undefined) return known;
    const isKept = this.#hasSameLinks(lower, upper) && (await this.#isSame(lower, upper));
    this.#kept.set(upper.number, isKept);
    return isKept;
  }

  #hasSameLinks(lower: Inode, upper: Inode): boolean {
    const [before, after] = [
      this.#links.lower.get(lower.number) ?? [],
      this.#links.upper.get(upper.number) ?? [],
    ];
    return before.length === after.length && before.every((path, i) => path === after[i]);
  }

  async #isSame(lower: Inode, upper: Inode): Promise<boolean> {
    if (!(await this.hasSameFacts(lower, upper))) return false;
    if (lower.type === 'symlink') {
      const { reader } = this.#over;
      return (await reader.linkTarget(lower)) === (await this.#upper.linkTarget(upper));
    }
    return lower.type !== 'file' || (await this.#hasSameContent(lower, upper));
  }

  /** Whether type, rights, owner, time, size, device and attributes are the same. */
  async hasSameFacts(lower: Inode, upper: Inode): Promise<boolean> {
    const isSame =
      lower.type === upper.type &&
      lower.mode === upper.mode &&
      lower.uid === upper.uid &&
      lower.gid === upper.gid &&
      lower.mtime.seconds === upper.mtime.seconds &&
      lower.mtime.nanoseconds === upper.mtime.nanoseconds &&
      lower.deviceMajor === upper.deviceMajor &&
      lower.deviceMinor === upper.deviceMinor &&
      (lower.type !== 'file' || lower.sizeBytes === upper.sizeBytes);
    return isSame && (await this.#hasSameAttributes(lower, upper));
  }

  async #hasSameAttributes(lower: Inode, upper: Inode): Promise<boolean> {
    const [before, after] = [
      await this.#over.reader.attributes(lower),
      await this.#upper.attributes(upper),
    ];
    if (before.size !== after.size) return false;
    for (const [name, value] of before) {
      const found = after.get(name);
      if (found === undefined || !bytesEqual(found, value)) return false;
    }
    return true;
  }

  async #hasSameContent(lower: Inode, upper: Inode): Promise<boolean> {
    if (await this.#sharesContent(lower, upper)) return true;
    const [before, after] = [
      await this.#digestOf(this.#over.reader, lower),
      await this.#digestOf(this.#upper, upper),
    ];
    return bytesEqual(before, after);
  }

  /** Whether both read the same bytes of the device. */
  async #sharesContent(lower: Inode, upper: Inode): Promise<boolean> {
    const { touches } = this.#over;
    const hasSameMap =
      !upper.hasInlineData &&
      !lower.hasInlineData &&
      lower.hasExtents === upper.hasExtents &&
      bytesEqual(lower.blockField, upper.blockField);
    if (!hasSameMap || touches === undefined) return false;
    for await (const range of this.#upper.contentPlaces(upper)) {
      if (touches(range)) return false;
    }
    return true;
  }

  async #digestOf(reader: Ext4Reader, inode: Inode): Promise<Uint8Array> {
    const digest = new ContentDigest(this.#over.hash);
    for await (const { offset, bytes } of reader.content(inode)) digest.update(offset, bytes);
    return digest.digest();
  }
}

async function linksIn(reader: Ext4Reader, signal: AbortSignal): Promise<Links> {
  const known = KNOWN_LINKS.get(reader);
  if (known !== undefined) return known;
  const links = new Map<number, ByteString[]>();
  const seen = new Set([ROOT_INODE]);
  const todo: { readonly path: ByteString; readonly number: number }[] = [
    { path: '', number: ROOT_INODE },
  ];
  for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
    const names: (readonly [name: ByteString, number: number])[] = [];
    for await (const { name, inode } of reader.entries(await reader.inode(next.number))) {
      names.push([name, inode]);
    }
    names.sort(([, a], [, b]) => a - b);
    for (const [name, number] of names) {
      signal.throwIfAborted();
      const path = `${next.path}/${name}`;
      const { type, linkCount } = await reader.inode(number);
      if (type === 'directory') {
        if (seen.has(number)) throw damaged(`ext4 inode ${number}`, 'it has two parents');
        seen.add(number);
        todo.push({ path, number });
      } else if (linkCount > 1) {
        const paths = links.get(number);
        if (paths === undefined) links.set(number, [path]);
        else paths.push(path);
      }
    }
  }
  for (const paths of links.values()) paths.sort();
  KNOWN_LINKS.set(reader, links);
  return links;
}
