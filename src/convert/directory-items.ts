import { lstat, open, readdir, readlink } from 'node:fs/promises';
import type { BigIntStats } from 'node:fs';
import type { Hasher } from '../runtime/codec.ts';
import { failing } from './files.ts';
import { readAttributes } from './native/attributes.ts';
import type { ByteString, TarEntry, TarEntryType, TarItem, TarTime } from './tar/tar-entry.ts';

/** Bytes of a file read at a time. */
const PIECE_BYTES = 1024 * 1024;
const NANOSECONDS = 1_000_000_000n;

/**
 * The content of a directory as the entries of a layer, in the order of names, so that the same
 * content gives the same image. Sockets are left out, as in every archive. `hasher` takes all that
 * the entries say. Throws ConvertError, or the signal's reason.
 */
export async function* directoryItems(
  root: string,
  { hasher, signal }: { readonly hasher: Hasher; readonly signal: AbortSignal | undefined },
): AsyncGenerator<TarItem, void> {
  const linked = new Map<string, ByteString>();
  const left: ByteString[] = [''];
  for (let path = left.pop(); path !== undefined; path = left.pop()) {
    signal?.throwIfAborted();
    const file = new SourceFile(root, path);
    const stats = await file.stats();
    const type = typeOf(stats);
    if (type === undefined) continue;
    const entry = await file.entry(type, stats, linked);
    hasher.update(Buffer.from(JSON.stringify({ ...entry, xattrs: [...entry.xattrs] })));
    const content = entry.type === 'file' ? file.content(entry.sizeBytes, hasher) : NOTHING;
    yield { entry, content };
    if (type !== 'directory') continue;
    const names = await file.names();
    left.push(...names.toReversed().map((name) => (path === '' ? name : `${path}/${name}`)));
  }
}

/** A file below a directory, with its path as bytes. */
class SourceFile {
  readonly #path: ByteString;
  readonly #full: Buffer;
  readonly #shown: string;

  constructor(root: string, path: ByteString) {
    this.#path = path;
    this.#full = Buffer.concat([Buffer.from(`${root}/`), Buffer.from(path, 'latin1')]);
    this.#shown = this.#full.toString();
  }

  stats(): Promise<BigIntStats> {
    return failing(this.#shown, 'examine', () => lstat(this.#full, { bigint: true }));
  }

  async names(): Promise<readonly ByteString[]> {
    const names = await failing(this.#shown, 'list', () =>
      readdir(this.#full, { encoding: 'latin1' }),
    );
    return names.sort();
  }

  async entry(
    type: TarEntryType,
    stats: BigIntStats,
    linked: Map<string, ByteString>,
  ): Promise<TarEntry> {
    const key = `${stats.dev} ${stats.ino}`;
    const first = stats.nlink > 1n && type !== 'directory' ? linked.get(key) : undefined;
    if (first === undefined && stats.nlink > 1n) linked.set(key, this.#path);
    const sizeBytes = type === 'file' && first === undefined ? Number(stats.size) : 0;
    return {
      type: first === undefined ? type : 'hardlink',
      path: this.#path,
      linkTarget: first ?? (type === 'symlink' ? await this.#target() : ''),
      mode: Number(stats.mode & 0o7777n),
      uid: Number(stats.uid),
      gid: Number(stats.gid),
      mtime: timeOf(stats.mtimeNs),
      deviceMajor: major(stats.rdev),
      deviceMinor: minor(stats.rdev),
      xattrs: readAttributes(this.#full.toString('latin1')),
      sizeBytes,
      dataRuns: sizeBytes === 0 ? [] : [{ offset: 0, length: sizeBytes }],
    };
  }

  /** The bytes of the file; a file that shrinks meanwhile ends with zeros. */
  async *content(sizeBytes: number, hasher: Hasher): AsyncGenerator<Uint8Array, void> {
    const handle = await failing(this.#shown, 'open', () => open(this.#full));
    try {
      for (let done = 0; done < sizeBytes; ) {
        const piece = Buffer.alloc(Math.min(PIECE_BYTES, sizeBytes - done));
        await failing(this.#shown, 'read', () => handle.read(piece, 0, piece.length, done));
        hasher.update(piece);
        done += piece.length;
        yield piece;
      }
    } finally {
      await handle.close();
    }
  }

  #target(): Promise<ByteString> {
    return failing(this.#shown, 'read', () => readlink(this.#full, { encoding: 'latin1' }));
  }
}

const NOTHING: AsyncIterable<Uint8Array> = (async function* () {})();

function typeOf(stats: BigIntStats): TarEntryType | undefined {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'directory';
  if (stats.isSymbolicLink()) return 'symlink';
  if (stats.isCharacterDevice()) return 'character-device';
  if (stats.isBlockDevice()) return 'block-device';
  return stats.isFIFO() ? 'fifo' : undefined;
}

function timeOf(nanoseconds: bigint): TarTime {
  const rest = ((nanoseconds % NANOSECONDS) + NANOSECONDS) % NANOSECONDS;
  return { seconds: Number((nanoseconds - rest) / NANOSECONDS), nanoseconds: Number(rest) };
}

/** The numbers of a device (makedev(3) of glibc). */
function major(device: bigint): number {
  return Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n));
}

function minor(device: bigint): number {
  return Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n));
}
