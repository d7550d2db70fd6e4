import {
  blobPaths,
  dataOffset,
  dataPath,
  GROUP_BLOCKS,
  groupOf,
  RECORD_BYTES,
  RecordCodec,
  recordOffset,
} from '../../blockstore/layout.ts';
import {
  blockIndex,
  blockLength,
  BLOCK_SIZE_BYTES,
  BLOCKS_MAX,
  type BlobRef,
  type BlockIndex,
} from '../../image/block.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Codec, Hash } from '../../runtime/codec.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { bytesEqual } from '../../util/bytes.ts';
import type { BlockMemory } from './block-memory.ts';
import { storeFile, type OpenFiles, type StoreFile } from './open-files.ts';
import { LOOK_MS, type StoreTrust } from './store-trust.ts';

/** Most groups of a blob whose blocks are known as checked: 3.1 MB, for 16 GiB of a layer. */
const GROUPS_MAX = 1024;

const HASH_BYTES = 32;
const NEVER = Number.NEGATIVE_INFINITY;

/** A blob that a mount reads from the store. */
export interface HeldBlobInit {
  /** Its number among the blobs of the mount. */
  readonly number: number;
  readonly blob: BlobRef;
  /**
   * `pieces`: what is asked for is read alone, since it carries checksums of its own. `blocks`:
   * whole blocks are read, which stay in memory.
   */
  readonly by: 'pieces' | 'blocks';
  /** BLAKE3 of each of its blocks, where its image brings them: nothing else is believed then. */
  readonly digests?: Uint8Array | undefined;
}

/** What the blobs of a mount share. */
export interface HeldBlobComponents {
  readonly dir: string;
  readonly clock: Pick<Clock, 'nowMs'>;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly hash: Pick<Hash, 'blake3'>;
  readonly files: OpenFiles;
  readonly trust: StoreTrust;
  readonly memory: BlockMemory;
  /** Buffers of a block each: for what is given out, and for a block that is checked. */
  readonly given: Uint8Array;
  readonly checked: Uint8Array;
}

/** What is known of the blocks of a group. */
class HeldGroup {
  readonly data: StoreFile;
  /** The file in which its blocks were checked. */
  identity = '';
  /** When a block was found good last, and its BLAKE3. */
  readonly goodMs = new Float64Array(GROUP_BLOCKS).fill(NEVER);
  readonly digests = new Uint8Array(GROUP_BLOCKS * HASH_BYTES);
  /** When a block was found bad last. */
  readonly badMs = new Float64Array(GROUP_BLOCKS).fill(NEVER);

  constructor(path: string) {
    this.data = storeFile(path);
  }

  digestOf(index: BlockIndex): Uint8Array {
    const at = (index % GROUP_BLOCKS) * HASH_BYTES;
    return this.digests.subarray(at, at + HASH_BYTES);
  }
}

/**
 * A blob in the files of a store; see `StoreReader`, which makes these and says what is checked.
 */
export class HeldBlob {
  readonly #components: HeldBlobComponents;
  readonly #init: HeldBlobInit;
  readonly #records: RecordCodec;
  readonly #recordsFile: StoreFile;
  readonly #groups: BoundedMap<number, HeldGroup>;
  readonly #slot = new Uint8Array(RECORD_BYTES);
  /** The group that was used last, found without the map. */
  #last: { readonly number: number; readonly group: HeldGroup } | undefined;

  constructor(components: HeldBlobComponents, init: HeldBlobInit) {
    this.#components = components;
    this.#init = init;
    this.#records = new RecordCodec(components, init);
    this.#groups = new BoundedMap({
      entriesMax: GROUPS_MAX,
      evict: 'use',
      onEvict: (_, { data }) => components.files.close(data),
    });
    this.#recordsFile = storeFile(`${components.dir}/${blobPaths(init.blob.digest).records}`);
  }

  /**
   * The bytes [offset, offset + length), at most a block of them: a view, valid until the next call
   * for any blob of the mount. Undefined when the store lacks some of them.
   */
  bytesAt(offset: number, length: number): Uint8Array | undefined {
    const index = blockIndex(Math.floor(offset / BLOCK_SIZE_BYTES));
    const start = offset - index * BLOCK_SIZE_BYTES;
    const first = Math.min(length, BLOCK_SIZE_BYTES - start);
    if (first === length && this.#init.by === 'blocks') {
      return this.#block(index)?.subarray(start, start + length);
    }
    const target = this.#components.given.subarray(0, length);
    if (first === length) return this.#fill(target, index, start) ? target : undefined;
    const [isHeld, next] = [this.#fill(target.subarray(0, first), index, start), index + 1];
    return isHeld && this.#fill(target.subarray(first), blockIndex(next), 0) ? target : undefined;
  }

  /** The bytes at this offset were good when they were checked, and are not now. */
  spoiled(offset: number): void {
    const index = blockIndex(Math.floor(offset / BLOCK_SIZE_BYTES));
    this.#setBad(this.#groupOf(index), index, this.#components.clock.nowMs());
  }

  #fill(target: Uint8Array, index: BlockIndex, start: number): boolean {
    if (this.#init.by === 'blocks') {
      const block = this.#block(index);
      if (block === undefined) return false;
      target.set(block.subarray(start, start + target.length));
      return true;
    }
    const group = this.#groupOf(index);
    return (
      this.#isGood(group, index) &&
      this.#components.files.read(group.data, target, dataOffset(index) + start) &&
      // Another file was opened meanwhile: its blocks are checked at the next read.
      group.identity === group.data.identity
    );
  }

  /** Whether the block was good less than `LOOK_MS` ago, or is now. */
  #isGood(group: HeldGroup, index: BlockIndex): boolean {
    const { files, clock } = this.#components;
    // A file that is missing now may be another one a moment later.
    if (!files.ensure(group.data)) return false;
    if (group.identity !== group.data.identity) {
      group.identity = group.data.identity;
      group.goodMs.fill(NEVER);
    }
    const nowMs = clock.nowMs();
    const at = index % GROUP_BLOCKS;
    if (nowMs - (group.goodMs[at] ?? NEVER) < LOOK_MS) return true;
    const digest = this.#lookFor(group, index, nowMs);
    if (digest === undefined) {
      group.goodMs[at] = NEVER;
      return false;
    }
    const wasGood = (group.goodMs[at] ?? NEVER) > NEVER;
    const isSame = wasGood && bytesEqual(digest, group.digestOf(index));
    if (!isSame && this.#readChecked(group, index, digest) === undefined) {
      return this.#setBad(group, index, nowMs);
    }
    group.goodMs[at] = nowMs;
    group.digestOf(index).set(digest);
    return true;
  }

  /** A whole block in memory, or read into it. */
  #block(index: BlockIndex): Uint8Array | undefined {
    const { memory, clock } = this.#components;
    const group = this.#groupOf(index);
    const key = this.#keyOf(index);
    const held = memory.get(key);
    const nowMs = clock.nowMs();
    const at = index % GROUP_BLOCKS;
    if (held !== undefined && nowMs - (group.goodMs[at] ?? NEVER) < LOOK_MS) return held.bytes;
    const digest = this.#lookFor(group, index, nowMs);
    if (digest === undefined) return undefined;
    if (held !== undefined && bytesEqual(held.digest, digest)) {
      group.goodMs[at] = nowMs;
      return held.bytes;
    }
    memory.delete(key);
    const bytes = this.#readChecked(group, index, digest)?.slice();
    if (bytes === undefined) {
      this.#setBad(group, index, nowMs);
      return undefined;
    }
    group.goodMs[at] = nowMs;
    memory.set(key, { bytes, digest });
    return bytes;
  }

  /** The BLAKE3 of the block by its record, if there is one that is believed. */
  #lookFor(group: HeldGroup, index: BlockIndex, nowMs: number): Uint8Array | undefined {
    const { files, trust } = this.#components;
    const { blob, digests } = this.#init;
    if (nowMs - (group.badMs[index % GROUP_BLOCKS] ?? NEVER) < LOOK_MS || !trust.look(nowMs)) {
      return undefined;
    }
    files.closeRemoved(this.#recordsFile);
    if (!files.read(this.#recordsFile, this.#slot, recordOffset(index))) return undefined;
    const record = this.#records.decode(index, this.#slot);
    if (record === undefined) return undefined;
    if (digests === undefined) {
      return trust.believes(blob.digest, record) ? record.blockDigest : undefined;
    }
    const at = index * HASH_BYTES;
    const isRight = bytesEqual(digests.subarray(at, at + HASH_BYTES), record.blockDigest);
    return isRight ? record.blockDigest : undefined;
  }

  /**
   * The bytes of the block, if they have this BLAKE3. A file that is not at its path any more is
   * tried first, as it is open, and then the one that is.
   */
  #readChecked(group: HeldGroup, index: BlockIndex, digest: Uint8Array): Uint8Array | undefined {
    const { files, hash, checked } = this.#components;
    const bytes = checked.subarray(0, blockLength(this.#init.blob.sizeBytes, index));
    for (let attempt = 0; attempt < 2; attempt++) {
      const isRead = files.read(group.data, bytes, dataOffset(index));
      if (isRead && bytesEqual(hash.blake3(bytes), digest)) return bytes;
      files.close(group.data);
    }
    return undefined;
  }

  #setBad(group: HeldGroup, index: BlockIndex, nowMs: number): false {
    group.goodMs[index % GROUP_BLOCKS] = NEVER;
    group.badMs[index % GROUP_BLOCKS] = nowMs;
    this.#components.memory.delete(this.#keyOf(index));
    return false;
  }

  /** Names a block among those of the mount. */
  #keyOf(index: BlockIndex): number {
    return this.#init.number * BLOCKS_MAX + index;
  }

  #groupOf(index: BlockIndex): HeldGroup {
    const number = groupOf(index);
    if (this.#last?.number === number) return this.#last.group;
    const group = this.#groups.get(number) ?? this.#newGroup(number);
    this.#last = { number, group };
    return group;
  }

  #newGroup(number: number): HeldGroup {
    const { dir } = this.#components;
    const group = new HeldGroup(`${dir}/${dataPath(blobPaths(this.#init.blob.digest), number)}`);
    this.#groups.set(number, group);
    return group;
  }
}
