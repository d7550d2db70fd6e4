import type { Hash } from '../../runtime/codec.ts';
import { defined } from '../../util/assert.ts';
import { toHex, bytesEqual } from '../../util/bytes.ts';
import type { ByteString } from '../tar/tar-entry.ts';
import { ContentDigest } from './content-digest.ts';
import type { Inode } from './ext4-inode.ts';
import type { DirectoryEntry } from './ext4-directory.ts';
import { ROOT_INODE, type ContentPiece } from './ext4-reader.ts';
import type { FileFacts } from './inode-table.ts';
import type { OriginalTree } from './original-tree.ts';
import { shownPath } from './shown-path.ts';

/** Differences that are kept to be shown; all are counted. */
const SHOWN_MAX = 100;

/** Characters of an attribute's value that are shown. */
const VALUE_CHARACTERS_MAX = 64;

/** The directory that tools which make an ext4 file system put there for fsck. */
const LOST_AND_FOUND = 'lost+found';

/** Most names of a file in ext4 (EXT4_LINK_MAX). */
const LINK_COUNT_MAX = 65_000;

/** What is compared of a file beside its name and its content. */
export type ComparedInode = Pick<
  Inode,
  'number' | 'linkCount' | 'deviceMajor' | 'deviceMinor' | keyof FileFacts
>;

/** A file system that is compared: read out of its blocks, or as the kernel shows it. */
export interface ComparedTree<I extends ComparedInode> {
  /** An inode that an entry of a directory named, or `ROOT_INODE`. */
  inode(number: number): Promise<I>;
  /** The names in a directory, in any order. */
  entries(directory: I): AsyncIterable<DirectoryEntry>;
  attributes(inode: I): Promise<ReadonlyMap<ByteString, Uint8Array>>;
  linkTarget(link: I): Promise<ByteString>;
  /** The content as far as it is not zeros, in order. */
  content(file: I): AsyncIterable<ContentPiece>;
}

/** How a block image differs from the image that it was made of. */
export interface Comparison {
  /** Files and directories that both have, hard links counted by name. */
  readonly entryCount: number;
  /** Bytes of the files' content that was compared; holes and repeated names left out. */
  readonly contentBytes: number;
  readonly differenceCount: number;
  /** The first differences as lines: the path, and what differs. */
  readonly differences: readonly string[];
}

/** How to stop a comparison, and where its progress goes. */
export interface CompareOptions {
  readonly signal?: AbortSignal;
  /** Called with the entries that were compared, and all there are to compare. */
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Compares a file system with the tree of the original image: names on both sides, types, rights,
 * owners, sizes, times, devices, targets, extended attributes, hard links and content. Throws
 * ImageError when the file system is damaged, or the signal's reason.
 */
export async function compareTrees<I extends ComparedInode>(
  { hash }: { readonly hash: Hash },
  sides: { readonly reader: ComparedTree<I>; readonly tree: OriginalTree },
  options: CompareOptions = {},
): Promise<Comparison> {
  return new TreeComparison(hash, sides, options).run();
}

/** A directory on both sides. */
interface Pair<I> {
  readonly path: ByteString;
  readonly inode: I;
  readonly original: number;
}

class TreeComparison<I extends ComparedInode> {
  readonly #hash: Hash;
  readonly #reader: ComparedTree<I>;
  readonly #tree: OriginalTree;
  readonly #options: CompareOptions;
  /** Of each inode of the original, the one that stands for it; 0 for none yet. */
  readonly #counterparts: Uint32Array;
  /** And the other way round. */
  readonly #originals = new Map<number, number>();
  readonly #differences: string[] = [];
  #differenceCount = 0;
  #entryCount = 0;
  #contentBytes = 0;

  constructor(
    hash: Hash,
    { reader, tree }: { readonly reader: ComparedTree<I>; readonly tree: OriginalTree },
    options: CompareOptions,
  ) {
    this.#hash = hash;
    this.#reader = reader;
    this.#tree = tree;
    this.#options = options;
    this.#counterparts = new Uint32Array(tree.inodes.count);
  }

  async run(): Promise<Comparison> {
    const root = await this.#reader.inode(ROOT_INODE);
    await this.#compareRoot(root);
    const todo: Pair<I>[] = [{ path: '', inode: root, original: this.#tree.root }];
    for (let pair = todo.pop(); pair !== undefined; pair = todo.pop()) {
      for await (const next of this.#compareNames(pair)) todo.push(next);
    }
    return {
      entryCount: this.#entryCount,
      contentBytes: this.#contentBytes,
      differenceCount: this.#differenceCount,
      differences: this.#differences,
    };
  }

  /**
   * What the layers say of the root is taken or not, depending on who unpacks them: containerd does
   * not. Nobody says when it was changed.
   */
  async #compareRoot(inode: I): Promise<void> {
    if (inode.type !== 'directory') return this.#differ('', 'is no directory in the image');
    if (!this.#tree.isRootDescribed) {
      const { mode, uid, gid } = inode;
      const text = `mode ${modeText(mode)}, owner ${uid}:${gid}`;
      if (mode === 0o755 && uid === 0 && gid === 0) return;
      this.#differ('', `has ${text}, but no layer says anything other than mode 0755, owner 0:0`);
      return;
    }
    this.#compareFacts('', inode, this.#tree.inodes.facts(this.#tree.root));
    await this.#compareAttributes('', inode, this.#tree.root);
  }

  /** Compares the names in a directory; gives the directories among them. */
  async *#compareNames({ path, inode, original }: Pair<I>): AsyncGenerator<Pair<I>, void> {
    const tree = this.#tree;
    const both = await this.#namesInBoth({ path, inode, original });
    // The disk has names in the order of their hashes. Inodes, and mostly the content of files, lie
    // in the order of their numbers.
    for (const [name, number] of [...both].sort(([, a], [, b]) => a - b)) {
      this.#options.signal?.throwIfAborted();
      const own = `${path}/${name}`;
      const id = defined(tree.child(original, name), 'the original has the name');
      const found = await this.#reader.inode(number);
      const isDirectory = await this.#compareInode(own, found, id);
      if (isDirectory) yield { path: own, inode: found, original: id };
      this.#entryCount++;
      this.#options.onProgress?.(this.#entryCount, tree.inodes.count);
    }
    if (both.size === tree.childCount(original)) return;
    for (const [name] of tree.children(original)) {
      if (!both.has(name)) this.#differ(`${path}/${name}`, 'is missing in the image');
    }
  }

  /** The names that a directory has on both sides, no more than the original has. */
  async #namesInBoth({ path, inode, original }: Pair<I>): Promise<Map<ByteString, number>> {
    const both = new Map<ByteString, number>();
    for await (const { name, inode: number } of this.#reader.entries(inode)) {
      this.#options.signal?.throwIfAborted();
      const own = `${path}/${name}`;
      if (both.has(name)) this.#differ(own, 'is in the image twice');
      else if (this.#tree.child(original, name) !== undefined) both.set(name, number);
      else if (path !== '' || name !== LOST_AND_FOUND || !(await this.#isEmpty(number))) {
        this.#differ(own, 'is in the image alone');
      }
    }
    return both;
  }

  async #isEmpty(number: number): Promise<boolean> {
    const inode = await this.#reader.inode(number);
    if (inode.type !== 'directory') return false;
    for await (const _ of this.#reader.entries(inode)) return false;
    return true;
  }

  /** Whether both are directories, to be looked into. */
  async #compareInode(path: ByteString, inode: I, id: number): Promise<boolean> {
    const { inodes } = this.#tree;
    const facts = inodes.facts(id);
    if (inode.type !== facts.type) {
      this.#differ(path, `is a ${inode.type} in the image, a ${facts.type} in the original`);
      return false;
    }
    if (!this.#isFirstOfLinks(path, inode, id)) return false;
    this.#compareFacts(path, inode, facts);
    await this.#compareAttributes(path, inode, id);
    if (facts.type === 'directory') return true;
    const [count, wanted] = [inode.linkCount, inodes.links(id)];
    if (count !== wanted && wanted <= LINK_COUNT_MAX) {
      this.#unequal(path, 'count of hard links', count, wanted);
    }
    if (facts.type === 'symlink') {
      const target = await this.#reader.linkTarget(inode);
      const original = inodes.target(id);
      if (target !== original) {
        this.#unequal(path, 'target', shownPath(target), shownPath(original));
      }
    }
    if (facts.type === 'character-device' || facts.type === 'block-device') {
      const { major, minor } = inodes.device(id);
      const [device, original] = [`${inode.deviceMajor}:${inode.deviceMinor}`, `${major}:${minor}`];
      if (device !== original) this.#unequal(path, 'device', device, original);
    }
    if (facts.type === 'file' && inode.sizeBytes === facts.sizeBytes) {
      await this.#compareContent(path, inode, id);
    }
    return false;
  }

  /** Whether these inodes were not compared before. Names of one file are names of one file. */
  #isFirstOfLinks(path: ByteString, inode: I, id: number): boolean {
    const counterpart = this.#counterparts[id] ?? 0;
    const original = this.#originals.get(inode.number);
    if (counterpart === inode.number && original === id) return false;
    if (original !== undefined) {
      this.#differ(path, 'is a hard link to another file in the image, but not in the original');
      return false;
    }
    // A file with more names than ext4 allows is several files in the image.
    if (counterpart !== 0 && this.#tree.inodes.links(id) <= LINK_COUNT_MAX) {
      this.#differ(path, 'is a hard link to another file in the original, but not in the image');
    }
    this.#counterparts[id] = inode.number;
    this.#originals.set(inode.number, id);
    return true;
  }

  #compareFacts(path: ByteString, inode: I, facts: FileFacts): void {
    if (inode.mode !== facts.mode) {
      this.#unequal(path, 'mode', modeText(inode.mode), modeText(facts.mode));
    }
    if (inode.uid !== facts.uid) this.#unequal(path, 'uid', inode.uid, facts.uid);
    if (inode.gid !== facts.gid) this.#unequal(path, 'gid', inode.gid, facts.gid);
    if (facts.type === 'file' && inode.sizeBytes !== facts.sizeBytes) {
      this.#unequal(path, 'size', inode.sizeBytes, facts.sizeBytes);
    }
    const [time, wanted] = [timeText(inode.mtime), timeText(facts.mtime)];
    if (time !== wanted) this.#unequal(path, 'mtime', time, wanted);
  }

  async #compareAttributes(path: ByteString, inode: I, id: number): Promise<void> {
    const found = await this.#reader.attributes(inode);
    const wanted = this.#tree.inodes.attributes(id);
    for (const [name, value] of wanted) {
      const own = found.get(name);
      const what = `attribute ${shownPath(name)}`;
      if (own === undefined) this.#differ(path, `${what} is missing in the image`);
      else if (!bytesEqual(own, value)) this.#unequal(path, what, valueText(own), valueText(value));
    }
    for (const name of found.keys()) {
      const isExtra = !wanted.has(name);
      if (isExtra) this.#differ(path, `attribute ${shownPath(name)} is in the image alone`);
    }
  }

  async #compareContent(path: ByteString, inode: I, id: number): Promise<void> {
    const digest = new ContentDigest(this.#hash);
    for await (const { offset, bytes } of this.#reader.content(inode)) {
      this.#options.signal?.throwIfAborted();
      digest.update(offset, bytes);
      this.#contentBytes += bytes.length;
    }
    if (!bytesEqual(digest.digest(), this.#tree.inodes.digest(id))) {
      this.#differ(path, 'content differs');
    }
  }

  #unequal(
    path: ByteString,
    what: string,
    image: string | number,
    original: string | number,
  ): void {
    this.#differ(path, `${what} is ${image} in the image, ${original} in the original`);
  }

  #differ(path: ByteString, what: string): void {
    this.#differenceCount++;
    if (this.#differences.length < SHOWN_MAX) {
      this.#differences.push(`${shownPath(path === '' ? '/' : path)}: ${what}`);
    }
  }
}

const modeText = (mode: number): string => `0${mode.toString(8).padStart(3, '0')}`;

const timeText = ({ seconds, nanoseconds }: FileFacts['mtime']): string =>
  `${seconds} s ${nanoseconds} ns`;

function valueText(value: Uint8Array): string {
  const hex = toHex(value.subarray(0, VALUE_CHARACTERS_MAX / 2));
  return `0x${hex}${value.length > VALUE_CHARACTERS_MAX / 2 ? '...' : ''}`;
}
