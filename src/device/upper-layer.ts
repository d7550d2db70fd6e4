import { randomUUID } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { APPEND_FILES, AppendLayer, type LowerDisk } from '../image/append-layer.ts';
import { LayerWriter } from '../image/layer-writer.ts';
import { digestOfSha256, type Digest } from '../image/digest.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import type { DiskFile } from '../runtime/disk.ts';
import { NodeDisk } from '../runtime/node/disk.ts';
import { readFully, readWhole, replaceFile } from '../runtime/whole-file.ts';
import type { WritableDisk } from './disk.ts';
import { punchHole } from './linux.ts';

/** Says that the layer has a file system with a journal. */
const READY_FILE = 'writable_ready';

/** All files of a writable layer in its folder. */
const UPPER_FILES: readonly string[] = [READY_FILE, ...Object.values(APPEND_FILES)];

/** Bytes that are hashed at once. */
const PIECE_BYTES = 1024 * 1024;

/** A committed layer: a blob, as a registry keeps it. */
export interface CommittedLayer {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/**
 * The writable layer of one device, in a folder of this host. Shows what every earlier process of
 * this boot has answered, and after a loss of power what was flushed.
 *
 * Life: `make()` -> `open()` -> the device is mounted the first time -> `ready()`; later `open()`
 * alone -> `close()`.
 */
export class UpperLayer implements WritableDisk {
  readonly #layer: AppendLayer;
  readonly #disk: NodeDisk;
  readonly #holesFd: number;

  private constructor(layer: AppendLayer, init: { disk: NodeDisk; holesFd: number }) {
    this.#layer = layer;
    this.#disk = init.disk;
    this.#holesFd = init.holesFd;
  }

  /** Whether `ready()` was called. */
  static async isReady(folder: string): Promise<boolean> {
    return (await readWhole(new NodeDisk({ root: folder }), READY_FILE, 1)) !== undefined;
  }

  /** Makes an empty layer, in the place of one that never was ready. */
  static async make(
    folder: string,
    init: { sizeBytes: number; parentUuid: string | undefined },
  ): Promise<void> {
    await UpperLayer.remove(folder);
    const disk = new NodeDisk({ root: folder });
    const { sizeBytes: virtualSizeBytes, parentUuid } = init;
    const uuid = randomUUID().toUpperCase();
    await AppendLayer.create(disk, '', {
      ...{ virtualSizeBytes, uuid },
      ...(parentUuid !== undefined && { parentUuid }),
    });
  }

  /**
   * Opens the layer, which may have at most `limitBytes` on the disk. `lower` is not read yet.
   * Rejects with DiskError, or ImageError when the layer is damaged.
   */
  static async open(
    folder: string,
    parts: { readonly lower?: LowerDisk; readonly boot: string },
    limitBytes = Number.POSITIVE_INFINITY,
  ): Promise<UpperLayer> {
    const disk = new NodeDisk({ root: folder });
    const holesFd = openSync(join(folder, APPEND_FILES.data), 'r+');
    const release = (offset: number, length: number): Promise<boolean> =>
      punchHole(holesFd, offset, length);
    try {
      const layer = await AppendLayer.open({ ...parts, disk, release }, '');
      if (layer === undefined) throw new Error(`there is no writable layer in ${folder}`);
      layer.limitBytes = limitBytes;
      return new UpperLayer(layer, { disk, holesFd });
    } catch (error) {
      closeSync(holesFd);
      throw error;
    }
  }

  /** Removes what is left of a layer that was committed. */
  static async remove(folder: string): Promise<void> {
    const disk = new NodeDisk({ root: folder });
    for (const name of UPPER_FILES) await disk.remove(name);
  }

  get sizeBytes(): number {
    return this.#layer.sizeBytes;
  }

  /** Makes what was written durable. Then the layer may have at most `limitBytes` on the disk. */
  async ready(limitBytes: number): Promise<void> {
    await this.#layer.flush();
    await replaceFile(this.#disk, READY_FILE, new Uint8Array(), { sync: true });
    this.#layer.limitBytes = limitBytes;
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    return this.#layer.read(target, offset);
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#layer.write(offset, bytes);
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#layer.zero(offset, length);
  }

  flush(): Promise<void> {
    return this.#layer.flush();
  }

  /** Writes the layer as a blob to a file of its folder, which is durable then. */
  async commit(components: { codec: Codec; hash: Hash }, name: string): Promise<CommittedLayer> {
    const temporary = `${name}.new`;
    await this.#disk.remove(temporary);
    const file = await this.#disk.open(temporary, 'write');
    try {
      const { uuid, parentUuid, sizeBytes: virtualSizeBytes } = this.#layer;
      const sink = { write: (at: number, bytes: Uint8Array) => file.write(bytes, at) };
      const init = { virtualSizeBytes, uuid, parentUuid };
      const writer = new LayerWriter({ ...components, sink }, init);
      await this.#layer.commit(writer);
      const sizeBytes = await writer.finish();
      await file.sync();
      const digest = await digestOfFile(components.hash, file);
      await this.#disk.rename(temporary, name);
      await this.#disk.syncFolder('');
      return { digest, sizeBytes };
    } finally {
      await file.close();
    }
  }

  /** Waits for what is in flight; does not flush. */
  async close(): Promise<void> {
    await this.#layer.close();
    closeSync(this.#holesFd);
  }
}

async function digestOfFile(hash: Hash, file: DiskFile): Promise<Digest> {
  const hasher = hash.sha256Stream();
  const piece = new Uint8Array(PIECE_BYTES);
  for (let at = 0; ; ) {
    const count = await readFully(file, piece, at);
    hasher.update(piece.subarray(0, count));
    at += count;
    if (count < piece.length) return digestOfSha256(hasher.digest());
  }
}
