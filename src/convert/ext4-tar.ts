import { damaged } from '../image/errors.ts';
import { defined } from '../util/assert.ts';
import type { Inode } from './check/ext4-inode.ts';
import { ROOT_INODE, type Ext4Reader } from './check/ext4-reader.ts';
import { shownPath } from './check/shown-path.ts';
import { ConvertError } from './errors.ts';
import { Ext4Changes, isTouched, type Changes } from './ext4-changes.ts';
import type { ByteString, TarEntryType } from './tar/tar-entry.ts';
import { tarEnd, tarHeader, tarPadding } from './tar/write-tar.ts';

/** The directory that tools which make an ext4 file system put there for fsck. */
const LOST_AND_FOUND = 'lost+found';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';

/** Zeros between pieces of content are written in pieces of this size. */
const ZEROS = new Uint8Array(64 * 1024);

/**
 * Names of a directory whose inodes are read together, in the order of their numbers, which is that
 * of the disk.
 */
const BATCH_NAMES = 4096;

/** How to stop the writing of a tar, and where its progress goes. */
export interface TarOptions {
  readonly signal: AbortSignal;
  /** Called for each file and directory that was looked at. */
  readonly onEntry?: () => void;
}

/** A name in one directory of both file systems; undefined where it is not, or is a socket. */
interface Pair {
  readonly name: ByteString;
  readonly lower: Inode | undefined;
  readonly upper: Inode | undefined;
}

/** A directory on the way, with the names that are still to come. */
interface Level {
  /** With a slash at its end; empty for the root. */
  readonly path: ByteString;
  readonly inode: Inode;
  /** Whether the tar has an entry of the directory. */
  isWritten: boolean;
  readonly pairs: AsyncGenerator<Pair, void>;
}

/**
 * A file system as the layer of an image: a tar of what it has, or, over another one, of what has
 * changed from that, with whiteouts for what is gone. Directories come before what is in them,
 * names in the order of their bytes, further names of a file as hard links. The same files give the
 * same bytes, however they lie on the disk. Sockets are left out, as every tar does.
 *
 * Of a file with several names all names are written again when one of them changes, since an
 * unpacker on an overlay would else cut them from each other. A directory is written when a name in
 * it changes, so that it keeps its time.
 *
 * Throws ImageError, ConvertError for names that mean something else in a layer, or the signal's
 * reason.
 */
export async function* tarOfExt4(
  upper: Ext4Reader,
  options: TarOptions & {
    /** What lies below, and which parts of the device it does not share. */
    readonly over?: Changes | undefined;
  },
): AsyncGenerator<Uint8Array, void> {
  yield* new TarOfExt4(upper, options).run();
}

class TarOfExt4 {
  readonly #upper: Ext4Reader;
  readonly #options: TarOptions;
  readonly #over: Changes | undefined;
  /** Of a file with several names that is written, the first one. */
  readonly #firsts = new Map<number, ByteString>();
  readonly #directories = new Set([ROOT_INODE]);
  #changes: Ext4Changes | undefined;

  constructor(upper: Ext4Reader, options: TarOptions & { readonly over?: Changes | undefined }) {
    this.#upper = upper;
    this.#options = options;
    this.#over = options.over;
  }

  async *run(): AsyncGenerator<Uint8Array, void> {
    const over = this.#over;
    if (over !== undefined) this.#changes = await Ext4Changes.of(over, this.#upper, this.#options);
    const root = await this.#upper.inode(ROOT_INODE);
    const lower = await over?.reader.inode(ROOT_INODE);
    const levels: Level[] = [];
    yield* this.#enter(levels, '', { name: '', lower, upper: root });
    for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
      this.#options.signal.throwIfAborted();
      const next = await level.pairs.next();
      if (next.done === true) levels.pop();
      else yield* this.#visit(levels, level, next.value);
    }
    yield tarEnd();
  }

  async *#visit(levels: Level[], level: Level, pair: Pair): AsyncGenerator<Uint8Array, void> {
    const { name, lower, upper } = pair;
    const path = `${level.path}${name}`;
    if (upper === undefined) {
      if (lower !== undefined)
        yield* this.#write(level, whiteout(`${level.path}${WHITEOUT}${name}`));
      return;
    }
    if (name.startsWith(WHITEOUT)) throw reserved(path);
    this.#options.onEntry?.();
    if (upper.type === 'directory') {
      if (this.#directories.has(upper.number)) {
        throw damaged(`ext4 inode ${upper.number}`, 'it has two parents');
      }
      this.#directories.add(upper.number);
      const isBoth = lower?.type === 'directory';
      if (!isBoth) yield* this.#ownHeader(level);
      yield* this.#enter(levels, `${path}/`, { name, lower: isBoth ? lower : undefined, upper });
      return;
    }
    if (lower !== undefined && (await this.#changes?.isKept(lower, upper)) === true) return;
    const first = this.#firsts.get(upper.number);
    yield* this.#write(level, await this.#header(path, upper, first));
    if (first !== undefined) return;
    if (upper.linkCount > 1) this.#firsts.set(upper.number, path);
    if (upper.type === 'file') yield* contentOf(this.#upper, upper);
  }

  /** Goes into a directory; writes it when it is new, or not what it was. */
  async *#enter(levels: Level[], path: ByteString, pair: Pair): AsyncGenerator<Uint8Array, void> {
    const { lower } = pair;
    const inode = defined(pair.upper, 'a directory that is entered is there');
    const names = await this.#names(path, { lower, upper: inode });
    const isSame =
      lower !== undefined && (await this.#changes?.hasSameFacts(lower, inode)) === true;
    const level = { path, inode, isWritten: false, pairs: this.#pairs(names) };
    if (!isSame) yield* this.#ownHeader(level);
    if (names.isOpaque) yield* this.#write(level, whiteout(`${path}${OPAQUE}`));
    levels.push(level);
  }

  /** The names in a directory on both sides. */
  async #names(
    path: ByteString,
    pair: { readonly lower: Inode | undefined; readonly upper: Inode },
  ): Promise<Names> {
    const upper = await namesIn(this.#upper, pair.upper, path);
    const over = this.#over;
    const lower =
      over === undefined || pair.lower === undefined
        ? new Map<ByteString, number>()
        : await namesIn(over.reader, pair.lower, path);
    // Nothing below is left: one mark stands for all whiteouts.
    const isOpaque = lower.size > 1 && ![...lower.keys()].some((name) => upper.has(name));
    return { upper, lower: isOpaque ? new Map() : lower, isOpaque };
  }

  async *#pairs({ lower, upper }: Names): AsyncGenerator<Pair, void> {
    const names = [...new Set([...upper.keys(), ...lower.keys()])].sort();
    for (let from = 0; from < names.length; from += BATCH_NAMES) {
      const batch = names.slice(from, from + BATCH_NAMES);
      const uppers = await inodesOf(this.#upper, batch, upper);
      const lowers = this.#over && (await inodesBelow(this.#over, batch, { lower, uppers }));
      for (const name of batch) {
        yield {
          name,
          lower: unlessSocket(lowers?.get(name)),
          upper: unlessSocket(uppers.get(name)),
        };
      }
    }
  }

  async *#ownHeader(level: Level): AsyncGenerator<Uint8Array, void> {
    if (level.isWritten) return;
    level.isWritten = true;
    yield await this.#header(level.path === '' ? './' : level.path, level.inode);
  }

  /** Writes an entry in a directory, after one of the directory. */
  async *#write(level: Level, header: Uint8Array): AsyncGenerator<Uint8Array, void> {
    yield* this.#ownHeader(level);
    yield header;
  }

  async #header(path: ByteString, inode: Inode, first?: ByteString): Promise<Uint8Array> {
    const { mode, uid, gid, mtime, deviceMajor, deviceMinor, sizeBytes } = inode;
    const reader = this.#upper;
    const isLink = inode.type === 'symlink';
    const type: TarEntryType = first === undefined ? typeOf(inode) : 'hardlink';
    return tarHeader({
      ...{ type, path, mode, uid, gid, mtime, deviceMajor, deviceMinor },
      linkTarget: first ?? (isLink ? await reader.linkTarget(inode) : ''),
      xattrs: first === undefined ? await reader.attributes(inode) : new Map(),
      sizeBytes: type === 'file' ? sizeBytes : 0,
    });
  }
}

/** The inodes of names in a directory, on both sides. */
interface Names {
  readonly lower: ReadonlyMap<ByteString, number>;
  readonly upper: ReadonlyMap<ByteString, number>;
  readonly isOpaque: boolean;
}

/** The names in a directory, but for an empty `lost+found`. */
async function namesIn(
  reader: Ext4Reader,
  directory: Inode,
  path: ByteString,
): Promise<Map<ByteString, number>> {
  const names = new Map<ByteString, number>();
  for await (const { name, inode } of reader.entries(directory)) names.set(name, inode);
  const lost = path === '' ? names.get(LOST_AND_FOUND) : undefined;
  if (lost !== undefined && (await isEmptyDirectory(reader, lost))) names.delete(LOST_AND_FOUND);
  return names;
}

async function isEmptyDirectory(reader: Ext4Reader, number: number): Promise<boolean> {
  const inode = await reader.inode(number);
  if (inode.type !== 'directory') return false;
  for await (const _ of reader.entries(inode)) return false;
  return true;
}

/** The inodes of these names, read in the order of the disk. */
async function inodesOf(
  reader: Ext4Reader,
  names: readonly ByteString[],
  numbers: ReadonlyMap<ByteString, number>,
): Promise<Map<ByteString, Inode>> {
  const found = new Map<ByteString, Inode>();
  const wanted = names.flatMap((name) => {
    const number = numbers.get(name);
    return number === undefined ? [] : [{ name, number }];
  });
  wanted.sort((a, b) => a.number - b.number);
  for (const { name, number } of wanted) found.set(name, await reader.inode(number));
  return found;
}

/** The same of the file system below; what did not change there is not read again. */
async function inodesBelow(
  over: Changes,
  names: readonly ByteString[],
  sides: {
    readonly lower: ReadonlyMap<ByteString, number>;
    readonly uppers: ReadonlyMap<ByteString, Inode>;
  },
): Promise<Map<ByteString, Inode>> {
  const { lower, uppers } = sides;
  const same = new Map<ByteString, Inode>();
  const others: ByteString[] = [];
  for (const name of names) {
    const number = lower.get(name);
    const upper = uppers.get(name);
    if (upper !== undefined && upper.number === number && !isTouched(over, upper)) {
      same.set(name, upper);
    } else if (number !== undefined) others.push(name);
  }
  for (const [name, inode] of await inodesOf(over.reader, others, lower)) same.set(name, inode);
  return same;
}

function unlessSocket(inode: Inode | undefined): Inode | undefined {
  return inode?.type === 'socket' ? undefined : inode;
}

function typeOf({ type, number }: Inode): TarEntryType {
  if (type === 'socket') throw damaged(`ext4 inode ${number}`, 'no tar holds sockets');
  return type;
}

/** The entry that hides a name of lower layers, or all of a directory. */
function whiteout(path: ByteString): Uint8Array {
  return tarHeader({
    ...{ type: 'file', path, linkTarget: '', mode: 0, uid: 0, gid: 0, sizeBytes: 0 },
    ...{ mtime: { seconds: 0, nanoseconds: 0 }, deviceMajor: 0, deviceMinor: 0, xattrs: new Map() },
  });
}

function reserved(path: ByteString): ConvertError {
  const what = `cannot write ${shownPath(path)} into a layer`;
  return new ConvertError(`${what}: names that begin with .wh. stand there for what is gone`, {
    code: 'layer',
  });
}

async function* contentOf(reader: Ext4Reader, inode: Inode): AsyncGenerator<Uint8Array, void> {
  let at = 0;
  for await (const { offset, bytes } of reader.content(inode)) {
    yield* zeros(offset - at);
    yield bytes;
    at = offset + bytes.length;
  }
  yield* zeros(inode.sizeBytes - at);
  yield tarPadding(inode.sizeBytes);
}

function* zeros(length: number): Generator<Uint8Array, void> {
  for (let left = length; left > 0; left -= ZEROS.length) {
    yield ZEROS.subarray(0, Math.min(left, ZEROS.length));
  }
}
