import type { Hash } from '../../runtime/codec.ts';
import { LAYER_COUNT_MAX } from '../../image/manifest.ts';
import { assert } from '../../util/assert.ts';
import { MIB } from '../../util/bytes.ts';
import { ConvertError } from '../errors.ts';
import type { ByteString, TarEntry, TarItem, TarTime } from '../tar/tar-entry.ts';
import { byteString } from '../tar/tar-header.ts';
import { ContentDigest } from './content-digest.ts';
import { INODE_COUNT_MAX, InodeTable, type Attributes, type Names } from './inode-table.ts';
import { shownPath } from './shown-path.ts';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';

/** Symbolic links on the way to one file; what containerd follows. */
const LINKS_MAX = 255;

/** Directories within each other: a path of Linux has no more. */
const DEPTH_MAX = 2048;

/** All extended attributes, targets of links and names that are kept. */
const TEXT_BYTES_MAX = 512 * MIB;

/** Of directories that no layer describes, as containerd makes them; they are given no time. */
const IMPLIED = {
  mode: 0o755,
  uid: 0,
  gid: 0,
  sizeBytes: 0,
  mtime: { seconds: 0, nanoseconds: 0 },
};

const LINK_MODE = 0o777;

/** Times that ext4 keeps: 32 bits with a sign, and two bits more. */
const SECONDS_MIN = -(2 ** 31);
const SECONDS_MAX = 2 ** 34 - 2 ** 31 - 1;

/** What a name stands for: the inode, and the layer that gave the name. */
const packed = (inode: number, layer: number): number => layer * INODE_COUNT_MAX + inode;
const inodeOf = (value: number): number => value % INODE_COUNT_MAX;
const layerOf = (value: number): number => Math.floor(value / INODE_COUNT_MAX);

/**
 * The files that the layers of an ordinary image make, in memory: what the OCI image specification
 * says ("Image Layer Filesystem Changeset"), and where it leaves room, what containerd does.
 *
 * - Paths are cleaned as text, and `..` ends at the root. Symbolic links in front of the last name
 *   are followed within the root; the last name is not.
 * - An entry replaces what has its name, whatever that is. Only a directory on a directory changes
 *   its owner, rights, time and attributes, and leaves what is in it.
 * - An entry of a hard link gives its owner, rights and time to the file that it links to.
 * - Whiteouts hide what lower layers made, wherever in the layer they stand.
 * - Missing directories in front of an entry, also of a whiteout, get mode 0755 and are of root.
 *
 * Throws ConvertError for what containerd refuses too: an entry below a file, a hard link to
 * nothing or to a directory, links that lead in a circle.
 */
export class OriginalTree {
  readonly inodes = new InodeTable();
  readonly root: number;
  /** Whether a layer has an entry for the root, which unpackers treat differently. */
  isRootDescribed = false;
  readonly #hash: Hash;
  #layer = -1;
  #textBytes = 0;
  /** Sets of attributes occur often: files share them. */
  readonly #attributes = new Map<ByteString, Attributes>();

  constructor({ hash }: { readonly hash: Hash }) {
    this.#hash = hash;
    this.root = this.inodes.add({ type: 'directory', ...IMPLIED });
    this.inodes.link(this.root);
  }

  /** Puts the next layer on top. Throws ConvertError, and what the items throw. */
  async addLayer(items: AsyncIterable<TarItem>): Promise<void> {
    this.#layer++;
    assert(this.#layer < LAYER_COUNT_MAX, 'an image has no more layers than a manifest');
    for await (const { entry, content } of items) {
      const id = this.#add(entry);
      if (id !== undefined && entry.type === 'file') {
        this.inodes.setDigest(id, await this.#digest(entry, content));
      }
    }
  }

  /** The inodes in a directory by name. */
  *children(directory: number): Generator<readonly [name: ByteString, inode: number], void> {
    for (const [name, value] of this.inodes.names(directory) ?? []) yield [name, inodeOf(value)];
  }

  /** The inode of a name in a directory. */
  child(directory: number, name: ByteString): number | undefined {
    const value = this.inodes.names(directory)?.get(name);
    return value === undefined ? undefined : inodeOf(value);
  }

  /** Names in a directory. */
  childCount(directory: number): number {
    return this.inodes.names(directory)?.size ?? 0;
  }

  /** Adds an entry; its inode, unless it is a whiteout. */
  #add(entry: TarEntry): number | undefined {
    const path = cleaned(entry.path);
    const name = path.pop();
    if (name === undefined) return this.#describeRoot(entry);
    const directory = this.#directory(path, entry, true);
    if (name.startsWith(WHITEOUT)) {
      this.#whiteOut(directory, name, entry);
      return undefined;
    }
    const existing = this.child(directory, name);
    if (existing !== undefined) {
      if (entry.type === 'directory' && this.inodes.type(existing) === 'directory') {
        this.#describe(existing, entry);
        this.inodes.ownNames(directory).set(name, packed(existing, this.#layer));
        return existing;
      }
      this.#remove(directory, name);
    }
    const id = entry.type === 'hardlink' ? this.#linked(entry) : this.#made(entry);
    this.#name(directory, name, id);
    return id;
  }

  #describeRoot(entry: TarEntry): undefined {
    if (entry.type !== 'directory') return;
    this.isRootDescribed = true;
    this.#describe(this.root, entry);
  }

  #describe(id: number, entry: TarEntry): void {
    this.inodes.change(id, { ...entry, sizeBytes: 0, mtime: clamped(entry.mtime) });
    this.#setAttributes(id, entry.xattrs);
  }

  #made(entry: TarEntry): number {
    const { type, linkTarget, deviceMajor, deviceMinor } = entry;
    assert(type !== 'hardlink', 'a hard link makes no inode');
    const mode = type === 'symlink' ? LINK_MODE : entry.mode;
    const sizeBytes = type === 'symlink' ? linkTarget.length : entry.sizeBytes;
    const id = this.inodes.add({ ...entry, type, mode, sizeBytes, mtime: clamped(entry.mtime) });
    if (type === 'symlink') {
      this.#countText(linkTarget.length);
      this.inodes.setDetail(id, ownText(linkTarget));
    } else if (type === 'character-device' || type === 'block-device') {
      this.inodes.setDetail(id, { major: deviceMajor, minor: deviceMinor });
    }
    this.#setAttributes(id, entry.xattrs);
    return id;
  }

  /** The inode that a hard link names, with what the entry says of it. */
  #linked(entry: TarEntry): number {
    const path = entry.linkTarget.split('/');
    const name = path.pop() ?? '';
    const directory = this.#directory(path, entry, false);
    const id = this.child(directory, name);
    if (id === undefined) throw refused(entry, `there is no ${shownPath(entry.linkTarget)}`);
    const { type, mode, sizeBytes } = this.inodes.facts(id);
    if (type === 'directory') throw refused(entry, 'a hard link cannot lead to a directory');
    const kept = type === 'symlink' ? mode : entry.mode;
    this.inodes.change(id, { ...entry, mode: kept, sizeBytes, mtime: clamped(entry.mtime) });
    if (entry.xattrs.size > 0) {
      this.#setAttributes(id, new Map([...this.inodes.attributes(id), ...entry.xattrs]));
    }
    return id;
  }

  #name(directory: number, name: ByteString, id: number): void {
    this.#countText(name.length);
    this.inodes.ownNames(directory).set(ownText(name), packed(id, this.#layer));
    this.inodes.link(id);
  }

  /**
   * The directory of a path, links followed. Missing directories are made, or refused. A path that
   * comes from the text of an archive may have `.` and `..`.
   */
  #directory(path: readonly ByteString[], entry: TarEntry, isMade: boolean): number {
    const todo = path.toReversed();
    const trail = [this.root];
    let links = 0;
    for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (trail.length > 1) trail.pop();
        continue;
      }
      const directory = trail.at(-1) ?? this.root;
      const id = this.child(directory, name) ?? this.#missing(directory, name, { entry, isMade });
      const type = this.inodes.type(id);
      if (type === 'symlink') {
        if (++links > LINKS_MAX) throw refused(entry, 'too many symbolic links lead to it');
        const target = this.inodes.target(id);
        if (target.startsWith('/')) trail.length = 1;
        todo.push(...relative(target).reverse());
      } else if (type === 'directory') trail.push(id);
      else throw refused(entry, `${shownPath(name)} in its path is no directory`);
      if (trail.length > DEPTH_MAX) throw refused(entry, `it is below ${DEPTH_MAX} directories`);
    }
    return trail.at(-1) ?? this.root;
  }

  #missing(
    directory: number,
    name: ByteString,
    { entry, isMade }: { readonly entry: TarEntry; readonly isMade: boolean },
  ): number {
    if (!isMade) throw refused(entry, `there is no ${shownPath(entry.linkTarget)}`);
    const id = this.inodes.add({ type: 'directory', ...IMPLIED });
    this.#name(directory, name, id);
    return id;
  }

  #whiteOut(directory: number, name: ByteString, entry: TarEntry): void {
    if (name === OPAQUE) {
      this.#hideLower(directory);
      return;
    }
    const hidden = name.slice(WHITEOUT.length);
    if (hidden === '' || hidden === '.' || hidden === '..') {
      throw refused(entry, 'it is a whiteout of no valid name');
    }
    const value = this.inodes.names(directory)?.get(hidden);
    if (value !== undefined) this.#hide(directory, hidden, value);
  }

  /** Removes what lower layers have in a directory. */
  #hideLower(directory: number): void {
    const names: Names = this.inodes.names(directory) ?? new Map<ByteString, number>();
    for (const [name, value] of names) this.#hide(directory, name, value);
  }

  /** Removes what lower layers have of a name. A directory stays for what this layer has in it. */
  #hide(directory: number, name: ByteString, value: number): void {
    const id = inodeOf(value);
    const isDirectory = this.inodes.type(id) === 'directory';
    if (isDirectory) this.#hideLower(id);
    if (layerOf(value) === this.#layer) return;
    if (!isDirectory || this.childCount(id) === 0) {
      this.#remove(directory, name);
      return;
    }
    this.inodes.change(id, IMPLIED);
    this.#setAttributes(id, new Map());
    this.inodes.ownNames(directory).set(name, packed(id, this.#layer));
  }

  /** Removes a name, and all below it. */
  #remove(directory: number, name: ByteString): void {
    const names = this.inodes.ownNames(directory);
    const value = names.get(name);
    assert(value !== undefined, 'a name that is removed exists');
    const id = inodeOf(value);
    for (const child of [...(this.inodes.names(id)?.keys() ?? [])]) this.#remove(id, child);
    names.delete(name);
    this.#textBytes -= name.length;
    this.inodes.unlink(id);
  }

  #setAttributes(id: number, attributes: Attributes): void {
    if (attributes.size === 0) {
      this.inodes.setAttributes(id, attributes);
      return;
    }
    let key = '';
    for (const [name, value] of [...attributes].sort(([a], [b]) => (a < b ? -1 : 1))) {
      key += `${name}\0${value.length}\0${byteString(value)}`;
    }
    let known = this.#attributes.get(key);
    if (known === undefined) {
      this.#countText(2 * key.length);
      known = new Map([...attributes].map(([name, value]) => [ownText(name), value.slice()]));
      this.#attributes.set(key, known);
    }
    this.inodes.setAttributes(id, known);
  }

  #countText(bytes: number): void {
    this.#textBytes += bytes;
    if (this.#textBytes > TEXT_BYTES_MAX) {
      throw new ConvertError(
        'cannot hold the image: names, links and attributes have more than ' +
          `${TEXT_BYTES_MAX} bytes`,
        { code: 'too-large', value: this.#textBytes },
      );
    }
  }

  async #digest({ dataRuns }: TarEntry, content: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
    const digest = new ContentDigest(this.#hash);
    let run = 0;
    let done = 0;
    for await (const piece of content) {
      for (let at = 0; at < piece.length; ) {
        const { offset, length } = dataRuns[run] ?? { offset: 0, length: 0 };
        assert(length > 0, 'the ranges of a file hold its content');
        const part = piece.subarray(at, at + length - done);
        digest.update(offset + done, part);
        at += part.length;
        done += part.length;
        if (done === length) {
          run++;
          done = 0;
        }
      }
    }
    return digest.digest();
  }
}

/** The names of a path; `..` ends at the root. */
function cleaned(path: ByteString): ByteString[] {
  const names: ByteString[] = [];
  for (const name of path.split('/')) {
    if (name === '..') names.pop();
    else if (name !== '' && name !== '.') names.push(name);
  }
  return names;
}

/** The names of a link's target, cleaned as text; what leads out of its directory stays. */
function relative(target: ByteString): ByteString[] {
  if (target.startsWith('/')) return cleaned(target);
  const names: ByteString[] = [];
  for (const name of target.split('/')) {
    if (name === '..' && names.length > 0 && names.at(-1) !== '..') names.pop();
    else if (name !== '' && name !== '.') names.push(name);
  }
  return names;
}

/** A string of its own: a part of a string keeps the whole of it. */
function ownText(text: ByteString): ByteString {
  return Buffer.from(text, 'latin1').toString('latin1');
}

function clamped(time: TarTime): TarTime {
  if (time.seconds < SECONDS_MIN) return { seconds: SECONDS_MIN, nanoseconds: 0 };
  if (time.seconds > SECONDS_MAX) return { seconds: SECONDS_MAX, nanoseconds: 0 };
  return time;
}

function refused({ path }: TarEntry, why: string): ConvertError {
  return new ConvertError(`cannot unpack ${shownPath(path)} of a layer: ${why}`, {
    code: 'layer',
  });
}
