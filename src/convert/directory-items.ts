import { lstat, open, readdir, readlink } from 'node:fs/promises';
import type { BigIntStats } from 'node:fs';
import type { Hasher } from '../runtime/codec.ts';
import type { ComparedInode } from './check/compare-trees.ts';
import { failing } from './files.ts';
import { readAttributes } from './native/attributes.ts';
import { factsOfStats } from './stat-facts.ts';
import type { ByteString, TarEntry, TarEntryType, TarItem } from './tar/tar-entry.ts';

/** Bytes of a file read at a time. */
const PIECE_BYTES = 1024 * 1024;

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
    const facts = factsOfStats(stats);
    const { type } = facts;
    if (type === 'socket') continue;
    const entry = await file.entry({ ...facts, type }, stats.dev, linked);
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
    facts: ComparedInode & { readonly type: TarEntryType },
    filesystem: bigint,
    linked: Map<string, ByteString>,
  ): Promise<TarEntry> {
    const { type, mode, uid, gid, mtime, linkCount, deviceMajor, deviceMinor } = facts;
    const key = `${filesystem} ${facts.number}`;
    const first = linkCount > 1 && type !== 'directory' ? linked.get(key) : undefined;
    if (first === undefined && linkCount > 1) linked.set(key, this.#path);
    const sizeBytes = type === 'file' && first === undefined ? facts.sizeBytes : 0;
    return {
      type: first === undefined ? type : 'hardlink',
      path: this.#path,
      linkTarget: first ?? (type === 'symlink' ? await this.#target() : ''),
      ...{ mode, uid, gid, mtime, deviceMajor, deviceMinor },
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
