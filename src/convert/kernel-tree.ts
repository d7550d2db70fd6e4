import { constants, existsSync } from 'node:fs';
import { lstat, open, readdir, readlink, type FileHandle } from 'node:fs/promises';
import type { ComparedInode, ComparedTree } from './check/compare-trees.ts';
import type { DirectoryEntry } from './check/ext4-directory.ts';
import { ROOT_INODE, type ContentPiece } from './check/ext4-reader.ts';
import { failing } from './files.ts';
import { readAttributes } from './native/attributes.ts';
import { dataRanges } from './native/data-ranges.ts';
import { factsOfStats } from './stat-facts.ts';
import type { ByteString } from './tar/tar-entry.ts';

/** Bytes of a file read at a time. */
const PIECE_BYTES = 1024 * 1024;

/** Where SELinux is at work the kernel shows this attribute of every file. */
const SELINUX_LABEL = 'security.selinux';
const HAS_SELINUX = existsSync('/sys/fs/selinux/enforce');

/** A file of the mounted file system, and one of its paths. */
interface KernelInode extends ComparedInode {
  readonly path: ByteString;
}

/**
 * A mounted file system as the kernel shows it, to be compared. Another process must serve the
 * mount: some calls here block. Throws ConvertError.
 */
export class KernelTree implements ComparedTree<KernelInode> {
  readonly #root: ByteString;
  /** What directories named, until it is asked for; files with several names for good. */
  readonly #named = new Map<number, KernelInode>();

  constructor(root: string) {
    this.#root = Buffer.from(root).toString('latin1');
  }

  async inode(number: number): Promise<KernelInode> {
    const named = this.#named.get(number);
    if (named === undefined) return { ...(await this.#facts(this.#root)), number: ROOT_INODE };
    if (named.type === 'directory' || named.linkCount === 1) this.#named.delete(number);
    return named;
  }

  async *entries({ path }: KernelInode): AsyncGenerator<DirectoryEntry, void> {
    const names = await failing(shown(path), 'list', () =>
      readdir(bytesOf(path), { encoding: 'latin1' }),
    );
    for (const name of names) {
      const inode = await this.#facts(`${path}/${name}`);
      this.#named.set(inode.number, inode);
      yield { name, inode: inode.number };
    }
  }

  async attributes({ path }: KernelInode): Promise<ReadonlyMap<ByteString, Uint8Array>> {
    const attributes = new Map(readAttributes(path));
    if (HAS_SELINUX) attributes.delete(SELINUX_LABEL);
    return attributes;
  }

  linkTarget({ path }: KernelInode): Promise<ByteString> {
    return failing(shown(path), 'read', () => readlink(bytesOf(path), { encoding: 'latin1' }));
  }

  async *content({ path, sizeBytes }: KernelInode): AsyncGenerator<ContentPiece, void> {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW;
    const file = await failing(shown(path), 'open', () => open(bytesOf(path), flags));
    try {
      for (const { offset, length } of dataRanges(file.fd)) {
        const end = Math.min(sizeBytes, offset + length);
        for (let at = offset; at < end; at += PIECE_BYTES) {
          const bytes = await readPiece(file, path, {
            at,
            length: Math.min(PIECE_BYTES, end - at),
          });
          yield { offset: at, bytes };
        }
      }
    } finally {
      await file.close();
    }
  }

  async #facts(path: ByteString): Promise<KernelInode> {
    const stats = await failing(shown(path), 'examine', () =>
      lstat(bytesOf(path), { bigint: true }),
    );
    return { ...factsOfStats(stats), path };
  }
}

async function readPiece(
  file: FileHandle,
  path: ByteString,
  { at, length }: { readonly at: number; readonly length: number },
): Promise<Uint8Array> {
  const piece = Buffer.alloc(length);
  await failing(shown(path), 'read', () => file.read(piece, 0, length, at));
  return piece;
}

const bytesOf = (path: ByteString): Buffer => Buffer.from(path, 'latin1');

const shown = (path: ByteString): string => bytesOf(path).toString();
