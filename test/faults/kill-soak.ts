import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { HttpBlobReader } from '../../src/demo/http-blob-reader.ts';
import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { BLOCK_SIZE_BYTES, blockIndex, blockLength } from '../../src/image/block.ts';
import { digestHex } from '../../src/image/digest.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { NodeDisk } from '../../src/runtime/node/disk.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { defined } from '../../src/util/assert.ts';
import { errorText } from '../../src/util/errors.ts';
import { storeParts } from '../kit/blocks.ts';
import type { FaultReport } from './fault-report.ts';
import { TruthBlob } from './truth.ts';

const CHILDREN = 3;
const REPOSITORY = 'app';

/**
 * In stripes, so that the agent is above others in some tree; a new blob every few kills, so that
 * blocks are always in flight.
 */
const BLOB_BYTES_MIN = 8_400_000;
const BLOB_BYTES_MAX = 9_400_000;
const ROUNDS_PER_BLOB = 3;

/** Reads in flight on a host, and the largest read. */
const LOADERS_PER_HOST = 2;
const READ_BYTES_MAX = 400_000;
const EARLIER_SHARE = 0.2;

/** Longest pause between two reads: the soak tests the agents, not their speed. */
const PAUSE_MS_MAX = 40;

/**
 * Number of the newest blobs that the soak reads through the agent after each kill; at the end it
 * compares all blobs.
 */
const BLOBS_READ_AFTER = 2;

/**
 * Longest time from the begin of the load to the kill. One kill in five comes at most
 * `EARLY_MS_MAX` after the start of the process instead.
 */
const KILL_MS_MAX = 900;
const EARLY_SHARE = 0.2;
const EARLY_MS_MAX = 700;
const POLL_MS = 20;

/**
 * Real agents in processes of their own: a root, and three that read all the time. Again and again
 * the soak kills an agent that others hang below. The agent restarts with the same store: the
 * blocks that it held are there, and right. Reads of the other agents never fail. At the end the
 * soak compares every block in every store.
 *
 * A killed process loses none of its writes, since the kernel lives: so every block that the agent
 * ever announced must be there, however recent the announcement (store-crashes.ts covers a loss of
 * power).
 */
export async function killSoak(
  init: { seed: number; kills: number; dir: string },
  report: FaultReport,
): Promise<void> {
  const random = new SeededRandom(`kill soak ${init.seed}`);
  const layoutDir = join(init.dir, 'oci');
  await mkdir(join(layoutDir, 'blobs', 'sha256'), { recursive: true });
  const registry = new EmbeddedRegistry({ layoutDir, repository: REPOSITORY });
  await registry.start();
  const cluster = new AgentCluster({
    dir: init.dir,
    roots: 1,
    children: CHILDREN,
    registry: registry.address,
    devices: false,
  });
  const soak = new KillSoak({ random, report, registry, cluster }, { ...init, layoutDir });
  try {
    await cluster.start();
    await soak.run();
  } finally {
    soak.close();
    await cluster.stop();
    await registry.stop();
  }
  for (const host of cluster.hosts) await soak.checkStore(host);
}

interface Parts {
  readonly random: SeededRandom;
  readonly report: FaultReport;
  readonly registry: EmbeddedRegistry;
  readonly cluster: AgentCluster;
}

interface HostState {
  /** Blocks that the agent announced, as `digest/index`. */
  readonly told: Set<string>;
  kills: number;
  up: boolean;
}

class KillSoak {
  readonly #parts: Parts;
  readonly #init: { seed: number; kills: number; layoutDir: string };
  readonly #clock = new SystemClock();
  readonly #blobs: TruthBlob[] = [];
  readonly #readers = new Map<string, HttpBlobReader>();
  readonly #states = new Map<string, HostState>();
  #kills = 0;
  #rounds = 0;

  constructor(parts: Parts, init: { seed: number; kills: number; layoutDir: string }) {
    this.#parts = parts;
    this.#init = init;
  }

  async run(): Promise<void> {
    const { report, cluster } = this.#parts;
    while (this.#kills < this.#init.kills) await this.#round();
    for (const host of cluster.children) {
      for (const blob of this.#blobs) await this.#read(host, blob, [0, blob.ref.sizeBytes]);
      const { failedReads } = await cluster.status(host);
      if (failedReads > 0) {
        report.violate('failed read', `${host.name} counts ${failedReads}; ${this.#again}`);
      }
    }
  }

  close(): void {
    for (const reader of this.#readers.values()) reader.close();
  }

  /** Opens the store that an agent left and compares every block in it. */
  async checkStore(host: ClusterHost): Promise<void> {
    const { report } = this.#parts;
    const store = new DiskStore(storeParts(new NodeDisk({ root: host.storeDir })));
    await store.start();
    for (const blob of this.#blobs) {
      const { ref } = blob;
      for (const index of store.blocksOf(ref.digest)) {
        const where =
          `block ${index} of ${ref.digest} in the store of ${host.name}; ` + this.#again;
        const block = await store.get(ref, index);
        if (block === undefined) {
          report.violate('lost durable block', where);
          continue;
        }
        const truth = blob.bytes(index * BLOCK_SIZE_BYTES, blockLength(ref.sizeBytes, index));
        report.compare(block.payload.bytes, truth, where);
        report.add('checked', 'blocks in stores at the end');
        block.payload.release();
      }
    }
    await store.stop();
  }

  get #again(): string {
    return `after ${this.#kills} kills; again: --only kill --seed ${this.#init.seed}`;
  }

  /** Load on all agents, a kill during it, a restart, and a check of the remaining blocks. */
  async #round(): Promise<void> {
    const { random, report, cluster } = this.#parts;
    const own = random.split(`round ${this.#kills}`);
    const blob = await this.#newest(own);
    const load = { on: true };
    const loads = cluster.children.map((host) =>
      this.#load(host, blob, { random: own.split(host.name), load }),
    );
    await this.#clock.sleep(own.below(KILL_MS_MAX));
    const victim = await this.#chooseVictim(own);
    for (const name of await this.#held(victim)) this.#state(victim).told.add(name);
    this.#kill(victim, 'under load');
    await cluster.restart(victim);
    if (own.float() < EARLY_SHARE && this.#kills < this.#init.kills) {
      await this.#clock.sleep(own.below(EARLY_MS_MAX));
      this.#kill(victim, 'while it starts');
      await cluster.restart(victim);
    }
    await waitReady(victim.process);
    this.#state(victim).up = true;
    await this.#checkVictim(victim);
    load.on = false;
    await Promise.all(loads);
    report.add('checked', 'restarts after which reads went through the agent');
  }

  /** The blob to read now: a new one every few rounds. */
  async #newest(random: SeededRandom): Promise<TruthBlob> {
    const newest = this.#blobs.at(-1);
    if (newest !== undefined && ++this.#rounds % ROUNDS_PER_BLOB > 0) return newest;
    const blob = await this.#publish(random);
    // One after the other, so that later hosts find a place below the first.
    for (const host of this.#parts.cluster.children) await this.#read(host, blob, [0, 1]);
    return blob;
  }

  async #publish(random: SeededRandom): Promise<TruthBlob> {
    const size = Math.floor(random.between(BLOB_BYTES_MIN, BLOB_BYTES_MAX));
    const blob = new TruthBlob(`kill ${this.#init.seed}/${this.#blobs.length}`, size);
    const hex = digestHex(blob.ref.digest);
    const path = join(this.#init.layoutDir, 'blobs', 'sha256', hex);
    await writeFile(path, blob.bytes(0, size));
    this.#blobs.push(blob);
    return blob;
  }

  async #load(
    host: ClusterHost,
    blob: TruthBlob,
    { random, load }: { random: SeededRandom; load: { on: boolean } },
  ): Promise<void> {
    const loader = async (): Promise<void> => {
      while (load.on) {
        const earlier = defined(this.#blobs[random.below(this.#blobs.length)], 'a blob');
        const which = random.float() < EARLIER_SHARE ? earlier : blob;
        const offset = random.below(which.ref.sizeBytes);
        const left = which.ref.sizeBytes - offset;
        await this.#read(host, which, [offset, 1 + random.below(Math.min(left, READ_BYTES_MAX))]);
        await this.#clock.sleep(random.below(PAUSE_MS_MAX));
        while (load.on && !this.#state(host).up) await this.#clock.sleep(POLL_MS);
      }
    };
    await Promise.all(Array.from({ length: LOADERS_PER_HOST }, loader));
  }

  async #read(
    host: ClusterHost,
    blob: TruthBlob,
    [offset, length]: readonly [number, number],
  ): Promise<void> {
    const { report } = this.#parts;
    const where = `${offset}+${length} of ${blob.ref.digest} at ${host.name}, ${this.#again}`;
    const state = this.#state(host);
    const { kills, up } = state;
    try {
      const found = await this.#reader(host).read(blob.ref, offset, length, { kind: 'demand' });
      report.add('checked', 'reads through agents');
      report.compare(found, blob.bytes(offset, length), where);
    } catch (error) {
      // A read may fail if its own agent was killed during it.
      if (!up || kills !== state.kills)
        report.add('checked', 'reads cut off by the kill of their own agent');
      else report.violate('failed read', `${errorText(error)}: ${where}`);
    }
  }

  #reader(host: ClusterHost): HttpBlobReader {
    const known = this.#readers.get(host.name);
    if (known !== undefined) return known;
    const origin = { registry: this.#parts.registry.address, repository: REPOSITORY };
    const reader = new HttpBlobReader({ base: host.local, origin });
    this.#readers.set(host.name, reader);
    return reader;
  }

  /** An agent that others hang below, if there is one. */
  async #chooseVictim(random: SeededRandom): Promise<ClusterHost> {
    const { cluster, report } = this.#parts;
    const parents: ClusterHost[] = [];
    for (const host of cluster.children) {
      const trees = await cluster.trees(host);
      if (trees.some(({ children }) => children.length > 0)) parents.push(host);
    }
    if (parents.length > 0) report.add('checked', 'kills of an agent that others hung below');
    const from = parents.length > 0 ? parents : cluster.children;
    return defined(from[random.below(from.length)], 'a child of the root');
  }

  async #held(host: ClusterHost): Promise<Set<string>> {
    const held = new Set<string>();
    for (const { digest, blocks } of await this.#parts.cluster.blobs(host)) {
      for (const [first, count] of blocks) {
        for (let i = first; i < first + count; i++) held.add(`${digest}/${i}`);
      }
    }
    return held;
  }

  #state(host: ClusterHost): HostState {
    const known = this.#states.get(host.name);
    if (known !== undefined) return known;
    const fresh: HostState = { told: new Set(), kills: 0, up: true };
    this.#states.set(host.name, fresh);
    return fresh;
  }

  #kill(host: ClusterHost, when: string): void {
    const state = this.#state(host);
    this.#kills++;
    state.kills++;
    state.up = false;
    host.process.signal('SIGKILL');
    this.#parts.report.add('crashes', `agent, kill -9 ${when} (real)`);
  }

  /** Every block that the agent announced is there, and reads through it return the right bytes. */
  async #checkVictim(host: ClusterHost): Promise<void> {
    const { report } = this.#parts;
    const held = await this.#held(host);
    for (const name of this.#state(host).told) {
      report.add('checked', 'promised blocks looked for');
      if (!held.has(name)) report.violate('lost durable block', `${name}, ${this.#again}`);
    }
    for (const blob of this.#blobs.slice(-BLOBS_READ_AFTER)) {
      const { digest, sizeBytes } = blob.ref;
      for (let at = 0; at < sizeBytes; at += BLOCK_SIZE_BYTES) {
        const index = blockIndex(at / BLOCK_SIZE_BYTES);
        if (!held.has(`${digest}/${index}`)) continue;
        await this.#read(host, blob, [at, blockLength(sizeBytes, index)]);
      }
    }
  }
}
