import { makeFolders } from '../runtime/node/folders.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import { within } from '../runtime/deadline.ts';
import type { DiskLock } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { lockFolder } from '../runtime/node/disk-lock.ts';
import { defined } from '../util/assert.ts';
import { CodedError, errorText } from '../util/errors.ts';
import { Catalog, COUNTED_KINDS, type Change } from './catalog/catalog.ts';
import { chainOf, lowerOf, type Lower } from './catalog/device-chain.ts';
import { parseFilters } from './catalog/filter.ts';
import { committedLabels, writableOf } from './catalog/layer-labels.ts';
import { mountsOf, writableMounts, type SnapshotMount } from './catalog/mounts.ts';
import { localLayerOf, remoteLayerOf, traceOf } from './catalog/new-layer.ts';
import type { Labels, SnapshotLayer, SnapshotRecord, Usage } from './catalog/snapshot.ts';
import type { DeviceChain, ImageDevices, Upper, WritableDevices } from './contracts.ts';
import { SnapshotError, WHAT_TO_DO } from './errors.ts';
import { DiskUsage } from './files/disk-usage.ts';
import { SnapshotFolders } from './files/snapshot-folders.ts';
import { BLOCK_FILE, unpackedLayer } from './files/unpacked-layer.ts';
import { holdAgain } from './hold-again.ts';
import { snapshotterMetrics, type SnapshotterMetrics } from './metrics.ts';
import type { NewSnapshot, Snapshots } from './snapshots.ts';
import { Ledger } from './store/ledger.ts';
import type { RecordStore } from './store/record-store.ts';

/**
 * How long a layer holds its device after its commit, in milliseconds: the next layer on top of it
 * comes at once, and would mount the device again.
 */
const HOLD_AFTER_COMMIT_MS = 10_000;

/** Longest check of a layer that is not downloaded, in milliseconds. */
const CHECK_MS_MAX = 60_000;

/** What separates paths and options in the options of overlayfs. */
const NO_PATH_OF_OVERLAYFS = /[,:\\\n]/;

/** What a snapshotter works with. */
export interface SnapshotterComponents {
  readonly devices: ImageDevices;
  /** Without it, no container gets a device of its own. */
  readonly writable?: WritableDevices;
  readonly store: RecordStore;
  readonly hash: Pick<Hash, 'sha256'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/**
 * The snapshots of a host. Ordinary layers are folders, which containerd unpacks and overlayfs
 * stacks; layers of block images are a device, which is mounted when a container needs it.
 *
 * Life: `start()`, which takes hold of the devices of open snapshots again, and goes on to mount
 * those that went -> calls -> `stop()`, which leaves mounts as they are. A process that is killed
 * loses nothing that was answered. Two snapshotters never share a folder: `start()` rejects with
 * DiskError `locked`.
 */
export class Snapshotter implements Snapshots {
  readonly #devices: ImageDevices;
  readonly #writable: WritableDevices | undefined;
  /** Ids of snapshots whose devices become layers. */
  readonly #committing = new Set<number>();
  readonly #store: RecordStore;
  readonly #parts: { readonly hash: Pick<Hash, 'sha256'> };
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #metrics: SnapshotterMetrics;
  readonly #folders: SnapshotFolders;
  readonly #usage: DiskUsage;
  readonly #stateDir: string;
  readonly #bootId: string;
  readonly #overlayOptions: readonly string[];
  #open: { readonly catalog: Catalog; readonly ledger: Ledger } | undefined;
  /** Of committed layers that are about to let go of their device, by id. */
  readonly #leaving = new Map<number, Timer>();
  #lock: DiskLock | undefined;
  #heldAgain: Promise<void> = Promise.resolve();

  /** `stateDir`: holds files of layers and containers. `bootId` is another after each reboot. */
  constructor(
    components: SnapshotterComponents,
    init: { stateDir: string; bootId: string; overlayOptions: readonly string[] },
  ) {
    if (NO_PATH_OF_OVERLAYFS.test(init.stateDir)) {
      const what = `snapshots cannot be kept in ${init.stateDir}: overlayfs takes no , : or \\`;
      throw new SnapshotError(what, { code: 'invalid' });
    }
    this.#devices = components.devices;
    this.#writable = components.writable;
    this.#store = components.store;
    this.#parts = components;
    this.#clock = components.clock;
    this.#logger = components.logger;
    this.#metrics = snapshotterMetrics(components.metrics);
    this.#folders = new SnapshotFolders(components, { dir: init.stateDir });
    this.#usage = new DiskUsage(components);
    this.#stateDir = init.stateDir;
    this.#bootId = init.bootId;
    this.#overlayOptions = init.overlayOptions;
  }

  /** Rejects with DiskError `locked`, or SnapshotError: `invalid` is the folder. */
  async start(): Promise<void> {
    try {
      makeFolders(this.#stateDir, 0o700);
      this.#lock = await lockFolder(this.#stateDir);
      this.#folders.open();
    } catch (error) {
      if (error instanceof CodedError) throw error;
      const where = `${this.#stateDir} (device.snapshotsDir)`;
      const what = `snapshots cannot be kept in ${where}: ${errorText(error)}`;
      throw new SnapshotError(what, { code: 'invalid' }, { cause: error });
    }
    const { records, nextId } = await this.#store.open();
    this.#checkKnown(nextId);
    const catalog = new Catalog(records, nextId);
    this.#open = { catalog, ledger: new Ledger({ catalog, store: this.#store }) };
    const ids = new Set(records.map(({ id }) => id));
    this.#folders.clear((id) => ids.has(id));
    this.#count();
    await this.#clearCommitted(records);
    this.#heldAgain = this.#holdAgain(records);
  }

  /** containerd's keys of snapshots, by what they hold devices as. */
  holderNames(): ReadonlyMap<string, string> {
    const records = [...(this.#open?.catalog.records() ?? [])];
    return new Map(records.map((record) => [holderOf(record), record.name] as const));
  }

  /**
   * Resolves when each device of this boot is held again, or cannot be: they do not wait for each
   * other, nor calls for them.
   */
  get heldAgain(): Promise<void> {
    return this.#heldAgain;
  }

  /**
   * Metadata that never knew a snapshot beside files of snapshots is a lost file: those without a
   * record would go. Throws SnapshotError `metadata`.
   */
  #checkKnown(nextId: number): void {
    if (nextId > 1 || !this.#folders.hasFiles()) return;
    throw new SnapshotError(
      `the metadata of snapshots is empty, but ${this.#stateDir} has files of snapshots` +
        WHAT_TO_DO,
      { code: 'metadata' },
    );
  }

  /** The caller has ended all calls. */
  async stop(): Promise<void> {
    this.#open = undefined;
    for (const timer of this.#leaving.values()) timer.cancel();
    this.#leaving.clear();
    await this.#store.close();
    await this.#lock?.release();
    this.#lock = undefined;
  }

  async prepare(wanted: NewSnapshot, signal: AbortSignal): Promise<readonly SnapshotMount[]> {
    const below = this.#upTo(wanted.parent);
    const layer = remoteLayerOf(this.#parts, wanted.labels, below);
    if (layer !== undefined) await this.#provide(wanted, { layer, below }, signal);
    return this.#make('active', { ...wanted, below }, signal);
  }

  async view(wanted: NewSnapshot, signal: AbortSignal): Promise<readonly SnapshotMount[]> {
    return this.#make('view', { ...wanted, below: this.#upTo(wanted.parent) }, signal);
  }

  async mounts(key: string, signal: AbortSignal): Promise<readonly SnapshotMount[]> {
    const record = this.#catalog.getOpen(key);
    const lower = this.#lowerOf(record);
    const held = await this.#hold(record, lower.chain, signal);
    if (held !== undefined && record.heldInBoot !== this.#bootId) {
      await this.#apply(this.#catalog.hold(key, this.#bootId));
    }
    return this.#mountsOf(record, lower, held);
  }

  async commit({ name, key, labels }: Parameters<Snapshots['commit']>[0]): Promise<void> {
    const record = this.#catalog.get(key);
    if (record.writable !== undefined) return this.#commitDevice(record, { name, labels });
    const { files } = this.#folders.of(record.id);
    const usage = await this.#usage.now(files);
    const unpacked = await unpackedLayer(files);
    const layer = localLayerOf(this.#parts, { name, unpacked }, this.#upTo(record.parent));
    const createdMs = this.#clock.wallMs();
    await this.#apply(this.#catalog.commit(key, { name, labels, layer, createdMs, usage }));
    this.#dropSoon(record);
  }

  async remove(key: string): Promise<void> {
    const record = this.#catalog.get(key);
    await this.#apply(this.#catalog.remove(key));
    await this.#drop(record);
    this.#folders.remove(record.id);
  }

  stat(key: string): SnapshotRecord {
    return this.#catalog.get(key);
  }

  async update(to: Parameters<Snapshots['update']>[0]): Promise<SnapshotRecord> {
    const change = this.#catalog.relabel(to.name, { ...to, nowMs: this.#clock.wallMs() });
    await this.#apply(change);
    return defined(change.after, 'it has new labels');
  }

  list(filters: readonly string[]): readonly SnapshotRecord[] {
    const isMeant = parseFilters(filters);
    return [...this.#catalog.records()].filter(isMeant);
  }

  async usage(key: string): Promise<Usage> {
    const { kind, usage, id } = this.#catalog.get(key);
    return kind === 'committed' ? usage : this.#usage.recent(this.#folders.of(id).files);
  }

  async cleanup(): Promise<void> {
    const ids = new Set<number>();
    for (const { id } of this.#catalog.records()) ids.add(id);
    this.#folders.clear((id) => ids.has(id));
    await this.#folders.settled();
  }

  get #catalog(): Catalog {
    return this.#running.catalog;
  }

  get #running() {
    if (this.#open !== undefined) return this.#open;
    throw new SnapshotError('the snapshotter does not run', { code: 'metadata' });
  }

  /** Makes a change durable. */
  async #apply(change: Change): Promise<void> {
    try {
      await this.#running.ledger.apply(change);
    } finally {
      this.#count();
    }
  }

  #count(): void {
    if (this.#open === undefined) return;
    for (const kind of COUNTED_KINDS) {
      this.#metrics.snapshots.set({ kind }, this.#open.catalog.countOf(kind));
    }
  }

  /** A snapshot by its name and all below it; none for the empty name. */
  #upTo(name: string): readonly SnapshotRecord[] {
    if (name === '') return [];
    const record = this.#catalog.get(name);
    return [record, ...this.#catalog.ancestors(record)];
  }

  #lowerOf({ parent }: Pick<SnapshotRecord, 'parent'>): Lower {
    return lowerOf(this.#upTo(parent), this.#fileOf);
  }

  readonly #fileOf = ({ id }: Pick<SnapshotRecord, 'id'>): string => this.#folders.blockFile(id);

  /** Commits a layer that is read on demand, and rejects with `already-exists`. */
  async #provide(
    { labels, parent }: NewSnapshot,
    { layer, below }: { layer: SnapshotLayer; below: readonly SnapshotRecord[] },
    signal: AbortSignal,
  ): Promise<never> {
    const name = defined(layer.kind === 'files' ? undefined : layer.chainId, 'it has a chain id');
    const createdMs = this.#clock.wallMs();
    const fields = { name, parent, kind: 'committed', layer, labels, createdMs } as const;
    const chain = chainOf([{ ...fields, id: 0 }, ...below], this.#fileOf);
    // What is said of a layer counts for all images that have it, so that it must be right.
    if (this.#catalog.find(name) === undefined) {
      const trace = traceOf(layer, labels);
      const check = async (limit: AbortSignal): Promise<void> => {
        if (trace !== undefined) await this.#devices.checkTrace(trace, limit);
        else if (chain !== undefined) await this.#devices.check(chain, limit);
      };
      await within(this.#clock, CHECK_MS_MAX, check, { signal });
    }
    await this.#apply(this.#catalog.create({ ...fields, heldInBoot: '' }));
    const what = `the layer ${name} is read on demand: nothing is to be downloaded`;
    throw new SnapshotError(what, { code: 'already-exists' });
  }

  /** A new open snapshot, with its folders and a hold on its device; nothing is left else. */
  async #make(
    kind: 'active' | 'view',
    { key, parent, labels, below: ancestors }: NewSnapshot & { below: readonly SnapshotRecord[] },
    signal: AbortSignal,
  ): Promise<readonly SnapshotMount[]> {
    const lower = lowerOf(ancestors, this.#fileOf);
    const heldInBoot = lower.chain === undefined ? '' : this.#bootId;
    const layer = { kind: 'files' } as const;
    const createdMs = this.#clock.wallMs();
    const isDevice = lower.chain !== undefined && lower.folders.length === 0 && kind === 'active';
    const writable = isDevice ? writableOf(labels) : undefined;
    const fields = { name: key, parent, kind, layer, labels, createdMs, heldInBoot } as const;
    const change = this.#catalog.create({ ...fields, ...(writable && { writable }) });
    const record = defined(change.after, 'it is new');
    try {
      // Before the record is durable, so that each record has its folders.
      this.#folders.make(record.id);
      await this.#apply(change);
      const held = await this.#hold(record, lower.chain, signal);
      const [top] = lower.folders;
      const below = top === undefined ? held?.dir : this.#folders.of(top.id).files;
      if (below !== undefined && writable === undefined) {
        await this.#folders.resemble(record.id, below);
      }
      return this.#mountsOf(record, lower, held);
    } catch (error) {
      await this.#discard(record);
      throw error;
    }
  }

  /** Takes back what `#make()` made. Never rejects. */
  async #discard(record: SnapshotRecord): Promise<void> {
    try {
      if (this.#catalog.find(record.name)?.id === record.id) {
        await this.#apply(this.#catalog.remove(record.name));
      }
      await this.#drop(record);
      this.#folders.remove(record.id);
    } catch (error) {
      // It stays as a snapshot that containerd does not know, and removes at its next collection.
      const text = errorText(error);
      this.#logger.warn({ snapshot: record.name, error: text }, 'cannot take a snapshot back');
    }
  }

  #mountsOf(record: SnapshotRecord, lower: Lower, held: Held | undefined) {
    if (held !== undefined && 'device' in held) return writableMounts(held);
    const { id, kind } = record;
    const dir = held?.dir;
    const folders = lower.folders.map((below) => this.#folders.of(below.id).files);
    const open = kind === 'view' ? 'view' : 'active';
    const isMixed = dir !== undefined && folders.length > 0;
    const below = { folders, deviceDir: isMixed ? this.#folders.link(id, dir) : dir };
    return mountsOf(open, this.#folders.of(id), below, this.#overlayOptions);
  }

  /** The device of an open snapshot; undefined when it has none. */
  async #hold(
    record: SnapshotRecord,
    chain: DeviceChain | undefined,
    signal: AbortSignal,
  ): Promise<Held | undefined> {
    if (chain === undefined) return undefined;
    const held =
      record.writable === undefined
        ? await this.#devices.hold(chain, holderOf(record), signal)
        : await this.#holdDevice(record, chain, signal);
    const open = this.#open;
    // After a stop, the next start takes hold of it again.
    if (open === undefined || open.catalog.find(record.name)?.id === record.id) return held;
    // Removed or committed meanwhile, when there was no hold yet to be dropped.
    await this.#drop(record);
    const what = `snapshot ${record.name} went while its device was mounted`;
    throw new SnapshotError(what, { code: 'not-found' });
  }

  async #holdDevice(record: SnapshotRecord, chain: DeviceChain, signal: AbortSignal) {
    this.#requireNoCommit(record);
    const devices = this.#requireWritable(record);
    return devices.hold(chain, holderOf(record), this.#upperOf(record), signal);
  }

  /** The device of an active snapshot becomes a layer. */
  async #commitDevice(
    record: SnapshotRecord,
    { name, labels }: { readonly name: string; readonly labels: Labels },
  ): Promise<void> {
    const { id, parent, name: key } = record;
    const devices = this.#requireWritable(record);
    this.#requireNoCommit(record);
    this.#committing.add(id);
    try {
      const createdMs = this.#clock.wallMs();
      const usage = { sizeBytes: 0, inodes: 1 };
      const fields = { name, labels, layer: record.layer, createdMs, usage };
      this.#catalog.commit(key, fields); // Is it to be refused, that is known at once.
      const chain = defined(this.#lowerOf(record).chain, 'a device lies on a chain');
      const upper = this.#upperOf(record);
      const blob = await devices.commit(chain, holderOf(record), upper, BLOCK_FILE);
      const { sizeBytes } = blob;
      // A name may be used again, and an id is not: no other device ever has the name of this one.
      const unpacked = { name: `${name}@${id}`, unpacked: { kind: 'block', sizeBytes } } as const;
      const layer = localLayerOf(this.#parts, unpacked, this.#upTo(parent));
      const said = { ...labels, ...committedLabels(blob, this.#folders.blockFile(id)) };
      const done = { ...fields, layer, labels: said, usage: { sizeBytes, inodes: 1 } };
      await this.#apply(this.#catalog.commit(key, done));
      await this.#clearUpper(record);
    } finally {
      this.#committing.delete(id);
    }
  }

  /** A process that was killed after a commit has left what the layer was made of. */
  async #clearCommitted(records: readonly SnapshotRecord[]): Promise<void> {
    for (const record of records) {
      const { kind, layer } = record;
      const isMade = kind === 'committed' && layer.kind === 'block' && layer.isLocal;
      if (isMade) await this.#clearUpper(record);
    }
  }

  /** Never rejects. */
  async #clearUpper({ id, name }: SnapshotRecord): Promise<void> {
    try {
      await this.#writable?.clear(this.#folders.of(id).files);
    } catch (error) {
      const text = errorText(error);
      this.#logger.warn({ snapshot: name, error: text }, 'cannot remove what a layer was made of');
    }
  }

  #upperOf({ id, writable = 'dir' }: SnapshotRecord): Upper {
    return { folder: this.#folders.of(id).files, mode: writable };
  }

  #requireWritable({ name }: SnapshotRecord): WritableDevices {
    if (this.#writable !== undefined) return this.#writable;
    const what = `snapshot ${name} wants a device of its own, which this process does not make`;
    throw new SnapshotError(what, { code: 'precondition' });
  }

  #requireNoCommit({ id, name }: SnapshotRecord): void {
    if (!this.#committing.has(id)) return;
    const what = `snapshot ${name} is being committed`;
    throw new SnapshotError(what, { code: 'precondition' });
  }

  #dropSoon(record: SnapshotRecord): void {
    if (record.heldInBoot === '') return;
    const timer = this.#clock.setTimer(HOLD_AFTER_COMMIT_MS, () => void this.#drop(record));
    this.#leaving.set(record.id, timer);
  }

  /** Ends the hold of a snapshot, if it has one. Never rejects. */
  async #drop(record: SnapshotRecord): Promise<void> {
    this.#leaving.get(record.id)?.cancel();
    this.#leaving.delete(record.id);
    try {
      const devices = record.writable === undefined ? this.#devices : this.#writable;
      await devices?.drop(holderOf(record));
    } catch (error) {
      const text = errorText(error);
      this.#logger.warn({ snapshot: record.name, error: text }, 'cannot let go of a device');
    }
  }

  /** Takes hold of the devices of this boot again. Never rejects. */
  #holdAgain(records: readonly SnapshotRecord[]): Promise<void> {
    const held = records.filter(({ kind, heldInBoot }) => {
      return kind !== 'committed' && heldInBoot === this.#bootId;
    });
    return holdAgain(held, {
      clock: this.#clock,
      resume: (record) => this.#resume(record),
      hold: async (record, signal) => this.#hold(record, this.#lowerOf(record).chain, signal),
      onFailure: ({ name }, error) => {
        if (this.#open === undefined) return;
        this.#metrics.devicesNotHeld.inc({});
        const text = 'cannot mount the device of a snapshot again; a new container does so';
        this.#logger.error({ snapshot: name, error: errorText(error) }, text);
      },
    });
  }

  /** Whether the snapshot has its hold again, on a device that is mounted. */
  #resume(record: SnapshotRecord): boolean {
    if (record.writable !== undefined) return false;
    const { chain } = this.#lowerOf(record);
    return chain === undefined || this.#devices.resume(chain, holderOf(record));
  }
}

/** The device of an open snapshot, which others share, or its own. */
type Held = { readonly dir: string } | Awaited<ReturnType<WritableDevices['hold']>>;

function holderOf({ id }: SnapshotRecord): string {
  return `snapshot-${id}`;
}
