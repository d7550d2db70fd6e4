import type { BlobOrigin } from '../../image/block.ts';
import { digestOf, parseDigest, type Digest } from '../../image/digest.ts';
import { MANIFEST_SIZE_BYTES_MAX } from '../../image/manifest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Disk } from '../../runtime/disk.ts';
import type { Logger } from '../../runtime/logger.ts';
import { readWhole, replaceFile } from '../../runtime/whole-file.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { toHex } from '../../util/bytes.ts';
import { errorText } from '../../util/errors.ts';

/** A manifest or an index, exactly as its registry keeps it. */
export interface KeptManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

/** What a tag stood for when the registry was last asked. */
export interface KeptTag {
  readonly digest: Digest;
  /** Milliseconds since 1970. */
  readonly checkedMs: number;
}

/**
 * Manifests have 1 to 10 KiB: a thousand images with their indexes and tags. Used least recently
 * goes first.
 */
const ENTRIES_MAX = 4096;
const BYTES_MAX = 16 * 1024 * 1024;

/** Changes that wait for the disk; beyond it an entry stays in memory alone. */
const WRITES_WAITING_MAX = 256;

/** Below the root of the store. */
const FOLDER = 'manifests';

/** The first line of a file; the bytes of a manifest follow it. */
interface Head {
  readonly version: 1;
  readonly registry: string;
  readonly repository: string;
  readonly digest: string;
  readonly mediaType?: string;
  readonly tag?: string;
  readonly checkedMs?: number;
}

const HEAD_BYTES_MAX = 4096;
const FILE_BYTES_MAX = HEAD_BYTES_MAX + MANIFEST_SIZE_BYTES_MAX;

/** What an entry takes beside the bytes of its manifest. */
const ENTRY_BYTES = 512;

interface Entry {
  readonly file: string;
  readonly manifest?: KeptManifest;
  readonly tag?: KeptTag;
}

/**
 * Manifests and what tags stood for, of each repository apart: that a manifest is known of one says
 * nothing of who may read another.
 *
 * All of it is in memory, and a copy on disk, so that it outlives a restart without the registry:
 * `manifests/<sha256 of its name>` below the root, a line of JSON and the bytes. Files are written
 * under another name and renamed, never synced; what does not have its digest is dropped.
 *
 * Life: constructed -> `start()` (reads what an earlier run kept) -> used -> `stop()` (waits for
 * the writes).
 */
export class ManifestCache {
  readonly #parts: { readonly disk: Disk; readonly hash: Hash; readonly logger: Logger };
  readonly #entries = new BoundedMap<string, Entry>({
    entriesMax: ENTRIES_MAX,
    evict: 'use',
    sizeMax: BYTES_MAX,
    sizeOf: ({ manifest }) => ENTRY_BYTES + (manifest?.bytes.length ?? 0),
    onEvict: (_, { file }) => this.#write(() => this.#parts.disk.remove(`${FOLDER}/${file}`)),
  });
  #writes: Promise<void> = Promise.resolve();
  #writesWaiting = 0;

  constructor(components: {
    readonly disk: Disk;
    readonly hash: Hash;
    readonly logger: Logger;
  }) {
    this.#parts = components;
  }

  /** Never rejects: a disk that refuses leaves the cache empty. */
  async start(): Promise<void> {
    const { disk, logger } = this.#parts;
    try {
      await disk.makeFolder(FOLDER);
      for (const { name } of await disk.list(FOLDER)) {
        const path = `${FOLDER}/${name}`;
        const isSound = await this.#load(name).catch(() => false);
        if (isSound) continue;
        // A write that was broken off leaves its draft.
        if (!name.endsWith('.new')) logger.warn({ path }, 'a kept manifest is damaged: it goes');
        await disk.remove(path);
      }
    } catch (error) {
      logger.warn({ error: errorText(error) }, 'kept manifests cannot be read');
    }
  }

  async stop(): Promise<void> {
    await this.#writes;
  }

  manifest(origin: BlobOrigin, digest: Digest): KeptManifest | undefined {
    return this.#entries.get(nameOf(origin, digest))?.manifest;
  }

  tag(origin: BlobOrigin, tag: string): KeptTag | undefined {
    return this.#entries.get(nameOf(origin, tag))?.tag;
  }

  putManifest({ registry, repository }: BlobOrigin, manifest: KeptManifest): void {
    const { digest, mediaType } = manifest;
    const name = nameOf({ registry, repository }, digest);
    if (this.#entries.has(name)) return;
    const head: Head = { version: 1, registry, repository, digest, mediaType };
    this.#put(name, { head, manifest });
  }

  putTag({ registry, repository }: BlobOrigin, tag: string, kept: KeptTag): void {
    const head: Head = { version: 1, registry, repository, tag, ...kept };
    this.#put(nameOf({ registry, repository }, tag), { head, tag: kept });
  }

  #put(
    name: string,
    content: { readonly head: Head; readonly manifest?: KeptManifest; readonly tag?: KeptTag },
  ): void {
    const { head, ...kept } = content;
    const entry = this.#insert(name, kept);
    const line = Buffer.from(`${JSON.stringify(head)}\n`);
    const bytes = Buffer.concat([line, kept.manifest?.bytes ?? new Uint8Array()]);
    this.#write(async () => {
      if (this.#entries.peek(name) !== entry) return;
      await replaceFile(this.#parts.disk, `${FOLDER}/${entry.file}`, bytes, { sync: false });
    });
  }

  #insert(name: string, kept: Omit<Entry, 'file'>): Entry {
    const file = toHex(this.#parts.hash.sha256(Buffer.from(name)));
    const entry = { ...kept, file };
    this.#entries.set(name, entry);
    return entry;
  }

  /** One change of the disk after the other. What the disk refuses is in memory all the same. */
  #write(change: () => Promise<void>): void {
    if (this.#writesWaiting >= WRITES_WAITING_MAX) return;
    this.#writesWaiting++;
    this.#writes = this.#writes.then(change).then(
      () => void this.#writesWaiting--,
      (error: unknown) => {
        this.#writesWaiting--;
        this.#parts.logger.warn({ error: errorText(error) }, 'a manifest was not kept on disk');
      },
    );
  }

  /** Takes in a file; false when it holds nothing that can be used. */
  async #load(file: string): Promise<boolean> {
    const bytes = await readWhole(this.#parts.disk, `${FOLDER}/${file}`, FILE_BYTES_MAX);
    const end = bytes?.indexOf(0x0a) ?? -1;
    if (bytes === undefined || end < 0) return false;
    const head = parseHead(Buffer.from(bytes.subarray(0, end)).toString());
    const digest = parseDigest(String(head?.digest));
    if (head === undefined || digest === undefined) return false;
    const name = nameOf(head, head.tag ?? digest);
    if (toHex(this.#parts.hash.sha256(Buffer.from(name))) !== file) return false;
    if (head.tag !== undefined) {
      if (typeof head.checkedMs !== 'number') return false;
      this.#insert(name, { tag: { digest, checkedMs: head.checkedMs } });
      return true;
    }
    const content = bytes.slice(end + 1);
    if (typeof head.mediaType !== 'string' || digestOf(this.#parts.hash, content) !== digest) {
      return false;
    }
    this.#insert(name, { manifest: { digest, mediaType: head.mediaType, bytes: content } });
    return true;
  }
}

/** One name for what a repository calls by a tag or a digest. */
export function nameOf({ registry, repository }: BlobOrigin, reference: string): string {
  return `${registry}/${repository}@${reference}`;
}

function parseHead(text: string): Head | undefined {
  try {
    const head = Object(JSON.parse(text)) as Head;
    return head.version === 1 ? head : undefined;
  } catch {
    return undefined;
  }
}
