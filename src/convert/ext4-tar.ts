import { damaged } from '../image/errors.ts';
import type { Inode } from './check/ext4-inode.ts';
import { ROOT_INODE, type Ext4Reader } from './check/ext4-reader.ts';
import type { ByteString, TarEntryType } from './tar/tar-entry.ts';
import { tarEnd, tarHeader, tarPadding } from './tar/write-tar.ts';

/** The directory that tools which make an ext4 file system put there for fsck. */
const LOST_AND_FOUND = 'lost+found';

/** Zeros between pieces of content are written in pieces of this size. */
const ZEROS = new Uint8Array(64 * 1024);

/** A directory on the way, with the names that are still to come. */
interface Level {
  readonly path: ByteString;
  readonly names: Iterator<readonly [name: ByteString, inode: number]>;
}

/**
 * A file system as a tar: directories before what is in them, names in the order of their bytes,
 * further names of a file as hard links. The same files give the same bytes, however they lie on
 * the disk. Sockets are left out, as every tar does. Throws ImageError, or the signal's reason.
 */
export async function* tarOfExt4(
  reader: Ext4Reader,
  options: { readonly signal: AbortSignal; readonly onEntry?: () => void },
): AsyncGenerator<Uint8Array, void> {
  const { signal, onEntry } = options;
  const linked = new Map<number, ByteString>();
  const directories = new Set([ROOT_INODE]);
  const root = await reader.inode(ROOT_INODE);
  yield await headerOf(reader, './', root);
  const levels: Level[] = [{ path: '', names: await namesIn(reader, root) }];
  for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
    signal.throwIfAborted();
    const next = level.names.next();
    if (next.done === true) {
      levels.pop();
      continue;
    }
    const [name, number] = next.value;
    const path = `${level.path}${name}`;
    const inode = await reader.inode(number);
    const first = linked.get(number);
    if (inode.type === 'socket') continue;
    if (inode.type === 'directory') {
      const names = await namesIn(reader, inode);
      if (path === LOST_AND_FOUND && names.isEmpty) continue;
      if (directories.has(number)) throw damaged(`ext4 inode ${number}`, 'it has two parents');
      directories.add(number);
      yield await headerOf(reader, `${path}/`, inode);
      levels.push({ path: `${path}/`, names });
    } else if (first === undefined) {
      if (inode.linkCount > 1) linked.set(number, path);
      yield await headerOf(reader, path, inode);
      if (inode.type === 'file') yield* contentOf(reader, inode);
    } else yield await headerOf(reader, path, inode, first);
    onEntry?.();
  }
  yield tarEnd();
}

async function namesIn(reader: Ext4Reader, directory: Inode) {
  const names: [ByteString, number][] = [];
  for await (const { name, inode } of reader.entries(directory)) names.push([name, inode]);
  names.sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.assign(names.values(), { isEmpty: names.length === 0 });
}

async function headerOf(
  reader: Ext4Reader,
  path: ByteString,
  inode: Inode,
  first?: ByteString,
): Promise<Uint8Array> {
  const { mode, uid, gid, mtime, deviceMajor, deviceMinor, sizeBytes } = inode;
  const isLink = inode.type === 'symlink';
  const type: TarEntryType = first === undefined ? typeOf(inode) : 'hardlink';
  return tarHeader({
    ...{ type, path, mode, uid, gid, mtime, deviceMajor, deviceMinor },
    linkTarget: first ?? (isLink ? await reader.linkTarget(inode) : ''),
    xattrs: first === undefined ? await reader.attributes(inode) : new Map(),
    sizeBytes: type === 'file' ? sizeBytes : 0,
  });
}

function typeOf({ type, number }: Inode): TarEntryType {
  if (type === 'socket') throw damaged(`ext4 inode ${number}`, 'no tar holds sockets');
  return type;
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
