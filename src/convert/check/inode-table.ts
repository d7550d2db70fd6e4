import type { ByteString, TarTime } from '../tar/tar-entry.ts';
import { ConvertError } from '../errors.ts';
import type { InodeType } from './ext4-inode.ts';

/** Most files and directories of a tree: 23 bits of a number in memory. */
export const INODE_COUNT_MAX = 2 ** 23;

/** Bytes of a content digest. */
const DIGEST_BYTES = 32;

const TYPES: readonly InodeType[] = [
  'file',
  'directory',
  'symlink',
  'character-device',
  'block-device',
  'fifo',
  'socket',
];

/** What is written about a file beside its name. */
export interface FileFacts {
  readonly type: InodeType;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  readonly mtime: TarTime;
}

/** Numbers of a device. */
export interface DeviceNumbers {
  readonly major: number;
  readonly minor: number;
}

/** Extended attributes by their full names. */
export type Attributes = ReadonlyMap<ByteString, Uint8Array>;

/** Names in a directory; what a name stands for is packed into a number that needs no object. */
export type Names = Map<ByteString, number>;

/** What only some inodes have: names, a target, device numbers. */
type Detail = Names | ByteString | DeviceNumbers | undefined;

const NO_ATTRIBUTES: Attributes = new Map();

/** The inodes of a tree in columns: about 80 bytes each, since there may be millions. */
export class InodeTable {
  #capacity = 1024;
  #count = 0;
  readonly #free: number[] = [];
  #types = new Uint8Array(this.#capacity);
  #modes = new Uint16Array(this.#capacity);
  #uids = new Uint32Array(this.#capacity);
  #gids = new Uint32Array(this.#capacity);
  #sizes = new Float64Array(this.#capacity);
  #seconds = new Float64Array(this.#capacity);
  #nanoseconds = new Uint32Array(this.#capacity);
  #links = new Uint32Array(this.#capacity);
  #digests = new Uint8Array(this.#capacity * DIGEST_BYTES);
  readonly #details: Detail[] = [];
  readonly #attributes: (Attributes | undefined)[] = [];

  /** Numbers of all inodes are below this. */
  get count(): number {
    return this.#count;
  }

  /** A new inode without names. Throws ConvertError when there are too many. */
  add(facts: FileFacts): number {
    const id = this.#free.pop() ?? this.#count++;
    if (id >= INODE_COUNT_MAX) {
      throw new ConvertError(`cannot hold the image: it has more than ${INODE_COUNT_MAX} files`, {
        code: 'too-large',
        value: id + 1,
      });
    }
    if (id >= this.#capacity) this.#grow();
    this.#links[id] = 0;
    this.#details[id] = undefined;
    this.#attributes[id] = undefined;
    this.#types[id] = TYPES.indexOf(facts.type);
    this.change(id, facts);
    return id;
  }

  /** Changes everything but the type. */
  change(id: number, facts: Omit<FileFacts, 'type'>): void {
    this.#modes[id] = facts.mode;
    this.#uids[id] = facts.uid;
    this.#gids[id] = facts.gid;
    this.#sizes[id] = facts.sizeBytes;
    this.#seconds[id] = facts.mtime.seconds;
    this.#nanoseconds[id] = facts.mtime.nanoseconds;
  }

  facts(id: number): FileFacts {
    return {
      type: this.type(id),
      mode: this.#modes[id] ?? 0,
      uid: this.#uids[id] ?? 0,
      gid: this.#gids[id] ?? 0,
      sizeBytes: this.#sizes[id] ?? 0,
      mtime: { seconds: this.#seconds[id] ?? 0, nanoseconds: this.#nanoseconds[id] ?? 0 },
    };
  }

  type(id: number): InodeType {
    return TYPES[this.#types[id] ?? 0] ?? 'file';
  }

  /** Names that the inode has. */
  links(id: number): number {
    return this.#links[id] ?? 0;
  }

  /** Counts one more name. */
  link(id: number): void {
    this.#links[id] = this.links(id) + 1;
  }

  /** Counts one name less; an inode without any is dropped. */
  unlink(id: number): void {
    this.#links[id] = this.links(id) - 1;
    if (this.links(id) > 0) return;
    this.#details[id] = undefined;
    this.#attributes[id] = undefined;
    this.#free.push(id);
  }

  digest(id: number): Uint8Array {
    return this.#digests.subarray(id * DIGEST_BYTES, (id + 1) * DIGEST_BYTES);
  }

  setDigest(id: number, digest: Uint8Array): void {
    this.#digests.set(digest, id * DIGEST_BYTES);
  }

  /** The names in a directory; undefined when it has none. */
  names(id: number): Names | undefined {
    const detail = this.#details[id];
    return detail instanceof Map ? detail : undefined;
  }

  /** The names in a directory, to add one. */
  ownNames(id: number): Names {
    const known = this.names(id);
    if (known !== undefined) return known;
    const names: Names = new Map();
    this.#details[id] = names;
    return names;
  }

  target(id: number): ByteString {
    const detail = this.#details[id];
    return typeof detail === 'string' ? detail : '';
  }

  device(id: number): DeviceNumbers {
    const detail = this.#details[id];
    const isDevice = typeof detail === 'object' && !(detail instanceof Map);
    return isDevice ? detail : { major: 0, minor: 0 };
  }

  setDetail(id: number, detail: ByteString | DeviceNumbers): void {
    this.#details[id] = detail;
  }

  attributes(id: number): Attributes {
    return this.#attributes[id] ?? NO_ATTRIBUTES;
  }

  setAttributes(id: number, attributes: Attributes): void {
    this.#attributes[id] = attributes.size === 0 ? undefined : attributes;
  }

  #grow(): void {
    this.#capacity *= 2;
    const size = this.#capacity;
    this.#types = copied(this.#types, new Uint8Array(size));
    this.#modes = copied(this.#modes, new Uint16Array(size));
    this.#uids = copied(this.#uids, new Uint32Array(size));
    this.#gids = copied(this.#gids, new Uint32Array(size));
    this.#sizes = copied(this.#sizes, new Float64Array(size));
    this.#seconds = copied(this.#seconds, new Float64Array(size));
    this.#nanoseconds = copied(this.#nanoseconds, new Uint32Array(size));
    this.#links = copied(this.#links, new Uint32Array(size));
    this.#digests = copied(this.#digests, new Uint8Array(size * DIGEST_BYTES));
  }
}

function copied<T extends { set(from: T): void }>(from: T, to: T): T {
  to.set(from);
  return to;
}
