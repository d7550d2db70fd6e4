import { assert, defined } from '../../util/assert.ts';
import { ConvertError } from '../errors.ts';
import type { ByteString, TarEntry, TarItem } from '../tar/tar-entry.ts';
import { byteString } from '../tar/tar-header.ts';
import { ContentWriter } from './content-writer.ts';
import { bytesOfString, NAME_BYTES_MAX, type DirectoryEntry } from './directory.ts';
import { ROOT_INODE, type Ext4 } from './ext4.ts';
import { ENTRY_TYPE, FAST_SYMLINK_BYTES_MAX, Inode, type InodeType } from './inode.ts';

const WHITEOUT_PREFIX = '.wh.';
const OPAQUE_WHITEOUT = '.wh..wh..opq';
/** Names that AUFS kept for itself; layers of old images have them. */
const AUFS_PREFIX = '.wh..wh.';

/** Symbolic links that one path may pass (Go's filepath-securejoin, which container tools use). */
const SYMLINKS_MAX = 255;
/** Longest target of a symbolic link in ext4: a block with its NUL. */
const TARGET_BYTES_MAX = 4095;
/** Of all symbolic links: Linux ignores them, and archives have others. */
const SYMLINK_PERMISSIONS = 0o777;
/** Links that an inode of ext4 can count. */
const LINKS_MAX = 65_000;
const FILE_BYTES_MAX = 2 ** 44 - 4096;
const ID_MAX = 2 ** 32 - 1;

/** Of directories that a layer uses but does not list, as containerd makes them. */
const IMPLIED_DIRECTORY = { permissions: 0o755, time: { seconds: 0, nanoseconds: 0 } };

/** What a path is looked up for. */
type Purpose = 'entry' | 'whiteout' | 'target';

/** Where a name stands: a directory and what it has under the name. */
interface Place {
  readonly directory: number;
  readonly name: ByteString;
  readonly entry: DirectoryEntry | undefined;
}

/**
 * Applies the entries of one OCI layer to a file system, as the image specification ("Image Layer
 * Filesystem Changeset") and containerd do it:
 *
 * Paths and the symbolic links on them never leave the root. A directory over a directory replaces
 * its attributes; everything else replaces what was there. Whiteouts hide names of the layers below
 * alone, wherever in the layer they stand. Times are those of the entries; a directory that a layer
 * does not list keeps its own.
 *
 * Life: `apply()` per entry. After an error the file system is unusable. Throws ConvertError, which
 * names the entry.
 */
export class LayerTree {
  readonly #fs: Ext4;
  readonly #window = ContentWriter.makeWindow();
  /** Inodes that this layer made or changed. */
  readonly #made = new Set<number>([ROOT_INODE]);
  /** Directories of layers below that this layer does not list, but has entries below. */
  readonly #passed = new Set<number>();
  /** Hard links of this layer, which may name inodes of layers below. */
  readonly #links = new Set<string>();

  constructor(fs: Ext4) {
    this.#fs = fs;
  }

  async apply(item: TarItem): Promise<void> {
    const path = cleanPath(item.entry.path);
    try {
      await this.#apply(path, item);
    } catch (error) {
      if (!(error instanceof ConvertError) || error.detail.code === 'file') throw error;
      const name = JSON.stringify(Buffer.from(item.entry.path, 'latin1').toString());
      throw new ConvertError(`entry ${name}: ${error.message}`, error.detail, { cause: error });
    }
  }

  async #apply(path: readonly ByteString[], item: TarItem): Promise<void> {
    const { entry } = item;
    checkEntry(entry);
    const name = path.at(-1);
    if (name === undefined) {
      if (entry.type === 'directory') this.#setAttributes(ROOT_INODE, entry);
      return;
    }
    if (name.startsWith(WHITEOUT_PREFIX)) {
      this.#hide(path.slice(0, -1), name);
      return;
    }
    const place = this.#placeOf(path, 'entry');
    if (entry.type === 'directory' && place.entry?.type === ENTRY_TYPE.directory) {
      this.#setAttributes(place.entry.inode, entry);
      this.#made.add(place.entry.inode);
      this.#passed.delete(place.entry.inode);
    } else if (entry.type === 'hardlink') this.#addLink(place, entry);
    else {
      this.#remove(place);
      await this.#add(place, item);
    }
  }

  async #add(place: Place, item: TarItem): Promise<void> {
    const { entry } = item;
    const { type, linkTarget } = entry;
    assert(type !== 'hardlink', 'a hard link adds no inode');
    // Written once: what comes later changes its blocks and attributes alone.
    const inode = Inode.make(type, entry.mode);
    describe(inode, entry);
    if (type === 'file') inode.sizeBytes = entry.sizeBytes;
    const target = type === 'symlink' ? bytesOfString(linkTarget) : undefined;
    const isFast = target !== undefined && target.length <= FAST_SYMLINK_BYTES_MAX;
    if (isFast) inode.setFastTarget(target);
    else if (target !== undefined) inode.sizeBytes = target.length;
    const number = this.#make(place, type, inode);
    if (type === 'file') await this.#writeContent(number, item);
    else if (target !== undefined && !isFast) this.#writeBytes(number, target);
    this.#fs.setAttributes(number, entry.xattrs, { others: 'none' });
  }

  /** The inode under the place's name, which is free. */
  #make(place: Place, type: InodeType, inode: Inode): number {
    inode.linkCount = type === 'directory' ? 2 : 1;
    const number = this.#fs.addInode(place.directory, inode);
    const entry = { inode: number, type: ENTRY_TYPE[type] };
    this.#fs.addName(place.directory, place.name, entry);
    if (type === 'directory') {
      this.#fs.addDirectory(number, place.directory);
      this.#countLinks(place.directory, 1);
    }
    this.#made.add(number);
    return number;
  }

  /** What was there goes first: a file is no target for a link in its own place. */
  #addLink(place: Place, entry: TarEntry): void {
    this.#remove(place);
    const target = this.#placeOf(cleanPath(entry.linkTarget), 'target');
    const found = target.entry;
    if (found === undefined || found.type === ENTRY_TYPE.directory) {
      const name = JSON.stringify(Buffer.from(entry.linkTarget, 'latin1').toString());
      throw refused(`it is a hard link to ${name}, which is ${found ? 'a directory' : 'missing'}`);
    }
    const links = this.#fs.readInode(found.inode).linkCount;
    if (links >= LINKS_MAX) throw refused(`a file has at most ${LINKS_MAX} hard links`);
    this.#links.add(linkKey(place));
    this.#fs.addName(place.directory, place.name, found);
    this.#countLinks(found.inode, 1);
    this.#setAttributes(found.inode, entry);
  }

  async #writeContent(number: number, { entry, content }: TarItem): Promise<void> {
    const writer = new ContentWriter(this.#fs, number, this.#window);
    const runs = entry.dataRuns.values();
    let run = runs.next().value;
    let done = 0;
    for await (const chunk of content) {
      for (let from = 0; from < chunk.length; ) {
        const { offset, length } = defined(run, 'content does not exceed its runs');
        const count = Math.min(length - done, chunk.length - from);
        writer.write(offset + done, chunk.subarray(from, from + count));
        from += count;
        done += count;
        if (done < length) continue;
        run = runs.next().value;
        done = 0;
      }
    }
    writer.finish();
  }

  #writeBytes(number: number, bytes: Uint8Array): void {
    const writer = new ContentWriter(this.#fs, number, this.#window);
    writer.write(0, bytes);
    writer.finish();
  }

  /** Gives what is there the attributes of the entry. */
  #setAttributes(number: number, entry: TarEntry): void {
    const inode = this.#fs.readInode(number);
    describe(inode, entry);
    this.#fs.writeInode(number, inode);
    const held = entry.type === 'hardlink' ? 'kept' : 'removed';
    this.#fs.setAttributes(number, entry.xattrs, { others: inode.hasAttributes ? held : 'none' });
  }

  /** A whiteout: of one name, or of all names of a directory. */
  #hide(parent: readonly ByteString[], name: ByteString): void {
    if (name !== OPAQUE_WHITEOUT && name.startsWith(AUFS_PREFIX)) return;
    const directory = this.#directoryAt(parent, 'whiteout') ?? ROOT_INODE;
    if (name === OPAQUE_WHITEOUT) this.#hideAll(directory);
    else this.#hideName(directory, name.slice(WHITEOUT_PREFIX.length));
  }

  #hideAll(directory: number): void {
    const names = [...this.#fs.directory(directory).entries()].map(([name]) => name);
    for (const name of names) this.#hideName(directory, name);
  }

  /** Removes what the layers below have under the name; what this layer has there stays. */
  #hideName(directory: number, name: ByteString): void {
    const entry = this.#fs.directory(directory).get(name);
    if (entry === undefined) return;
    const place = { directory, name, entry };
    const { inode, type } = entry;
    const isPassed = this.#passed.has(inode);
    if (!isPassed && !this.#made.has(inode) && !this.#links.has(linkKey(place))) {
      this.#remove(place);
    } else if (type === ENTRY_TYPE.directory) {
      this.#hideAll(inode);
      // Of the directory itself nothing is left but that the layer needs one.
      if (isPassed) this.#makeImplied(inode);
    }
  }

  /** Removes what is at the place, if anything, with all below it. */
  #remove({ directory, name, entry }: Place): void {
    if (entry === undefined) return;
    this.#fs.directory(directory).remove(name);
    this.#links.delete(linkKey({ directory, name }));
    if (entry.type === ENTRY_TYPE.directory) this.#countLinks(directory, -1);
    for (const gone = [entry]; gone.length > 0; ) {
      const { inode, type } = defined(gone.pop(), 'the list is not empty');
      if (type === ENTRY_TYPE.directory) {
        for (const [, child] of this.#fs.directory(inode).entries()) gone.push(child);
        this.#drop(inode);
      } else if (this.#countLinks(inode, -1) === 0) this.#drop(inode);
    }
  }

  #drop(inode: number): void {
    this.#made.delete(inode);
    this.#passed.delete(inode);
    this.#fs.removeInode(inode);
  }

  /**
   * Changes the link count; gives the new one. A directory with more subdirectories than ext4
   * counts has 1, and keeps it.
   */
  #countLinks(number: number, change: 1 | -1): number {
    const inode = this.#fs.readInode(number);
    if (inode.type === 'directory' && inode.linkCount === 1) return 1;
    const count = inode.linkCount + change;
    inode.linkCount = inode.type === 'directory' && count >= LINKS_MAX ? 1 : count;
    if (inode.linkCount > 0) this.#fs.writeInode(number, inode);
    return inode.linkCount;
  }

  /** The place of a clean path, whose directories are made if they do not exist. */
  #placeOf(path: readonly ByteString[], purpose: Purpose): Place {
    const name = path.at(-1);
    if (name === undefined) throw refused('it names the root');
    const directory = this.#directoryAt(path.slice(0, -1), purpose);
    if (directory === undefined) return { directory: ROOT_INODE, name, entry: undefined };
    return { directory, name, entry: this.#fs.directory(directory).get(name) };
  }

  /**
   * The directory at a clean path, with symbolic links followed within the root; `..` in their
   * targets goes up as text, as in containerd. A directory that does not exist is made, or gives
   * undefined for the target of a hard link.
   */
  #directoryAt(path: readonly ByteString[], purpose: Purpose): number | undefined {
    let passed: { readonly name: ByteString; readonly inode: number }[] = [];
    let links = 0;
    const left = path.toReversed();
    for (let name = left.pop(); name !== undefined; name = left.pop()) {
      const at = passed.at(-1)?.inode ?? ROOT_INODE;
      const entry = this.#fs.directory(at).get(name);
      if (entry === undefined) {
        if (purpose === 'target') return undefined;
        this.#pass(passed);
        passed.push({ name, inode: this.#addImplied({ directory: at, name, entry }) });
      } else if (entry.type === ENTRY_TYPE.directory) passed.push({ name, inode: entry.inode });
      else if (entry.type === ENTRY_TYPE.symlink) {
        if (++links > SYMLINKS_MAX) throw refused('its path passes too many symbolic links');
        const target = this.#targetOf(entry.inode);
        const above = target.startsWith('/') ? [] : passed.map((each) => each.name);
        left.push(...cleanPath([...above, target].join('/')).toReversed());
        passed = [];
      } else if (purpose === 'target') return undefined;
      else throw refused(`a part of its path, ${JSON.stringify(name)}, is not a directory`);
    }
    if (purpose === 'entry') this.#pass(passed);
    return passed.at(-1)?.inode ?? ROOT_INODE;
  }

  #pass(directories: readonly { readonly inode: number }[]): void {
    for (const { inode } of directories) if (!this.#made.has(inode)) this.#passed.add(inode);
  }

  #addImplied(place: Place): number {
    checkName(place.name);
    const inode = Inode.make('directory', IMPLIED_DIRECTORY.permissions);
    describeImplied(inode);
    return this.#make(place, 'directory', inode);
  }

  /** Gives a directory what one has that no layer lists. */
  #makeImplied(number: number): void {
    const inode = this.#fs.readInode(number);
    describeImplied(inode);
    this.#fs.writeInode(number, inode);
    const others = inode.hasAttributes ? 'removed' : 'none';
    this.#fs.setAttributes(number, new Map(), { others });
    this.#made.add(number);
    this.#passed.delete(number);
  }

  #targetOf(number: number): ByteString {
    const inode = this.#fs.readInode(number);
    return byteString(inode.fastTarget ?? this.#fs.readContent(number, inode.sizeBytes));
  }
}

/** Gives an inode what an entry says of its owner, its rights and its times. */
function describe(inode: Inode, entry: TarEntry): void {
  inode.permissions = inode.type === 'symlink' ? SYMLINK_PERMISSIONS : entry.mode;
  inode.uid = entry.uid;
  inode.gid = entry.gid;
  const { mtime, atime = mtime } = entry;
  inode.setTimes({ mtime, atime, ctime: mtime });
  if (entry.type === 'character-device' || entry.type === 'block-device') {
    inode.setDevice(entry.deviceMajor, entry.deviceMinor);
  }
}

function describeImplied(inode: Inode): void {
  const { permissions, time } = IMPLIED_DIRECTORY;
  inode.permissions = permissions;
  inode.uid = 0;
  inode.gid = 0;
  inode.setTimes({ mtime: time, atime: time, ctime: time });
}

/** The names of a path; `..` goes up, at most to the root. */
function cleanPath(path: ByteString): readonly ByteString[] {
  const names: ByteString[] = [];
  for (const name of path.split('/')) {
    if (name === '..') names.pop();
    else if (name !== '' && name !== '.') names.push(name);
  }
  return names;
}

function checkEntry(entry: TarEntry): void {
  for (const name of cleanPath(entry.path)) checkName(name);
  if (entry.sizeBytes > FILE_BYTES_MAX) {
    throw refused(`it has ${entry.sizeBytes} bytes; a file of ext4 has at most ${FILE_BYTES_MAX}`);
  }
  for (const id of [entry.uid, entry.gid]) {
    if (id < 0 || id > ID_MAX) throw refused(`its owner ${id} is not between 0 and ${ID_MAX}`);
  }
  if (entry.type !== 'symlink') return;
  if (entry.linkTarget.length === 0 || entry.linkTarget.length > TARGET_BYTES_MAX) {
    throw refused(`the target of a symbolic link has 1 to ${TARGET_BYTES_MAX} bytes`);
  }
}

function checkName(name: ByteString): void {
  if (name.length <= NAME_BYTES_MAX) return;
  throw refused(`a name has ${name.length} bytes; ext4 has room for ${NAME_BYTES_MAX}`);
}

function linkKey({ directory, name }: { directory: number; name: ByteString }): string {
  return `${directory}/${name}`;
}

function refused(why: string): ConvertError {
  return new ConvertError(why, { code: 'layer' });
}
