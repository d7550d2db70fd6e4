import type { Stats } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import type { Clock } from '../../runtime/clock.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { SingleFlight } from '../../util/single-flight.ts';
import type { Usage } from '../catalog/snapshot.ts';

/**
 * A measured folder is not measured again for this many times the time that it took, so that
 * clients that ask every ten seconds cost at most a twentieth of a core for each large folder.
 */
const REST_FACTOR = 20;

/** Folders whose usage is remembered: the open snapshots of a host. */
const MEASURED_MAX = 4096;

/** Blocks of stat(2), in bytes. */
const BLOCK_BYTES = 512;

interface Measured {
  readonly usage: Usage;
  readonly untilMs: number;
}

/**
 * The space that folders take on their disk. Files with several names count once; a folder that
 * changes while it is measured counts as it was seen.
 */
export class DiskUsage {
  readonly #clock: Clock;
  readonly #flights = new SingleFlight<string, Usage>();
  readonly #measured = new BoundedMap<string, Measured>({ entriesMax: MEASURED_MAX });

  constructor(components: { clock: Clock }) {
    this.#clock = components.clock;
  }

  /** Of some seconds ago, if that is cheaper. */
  async recent(folder: string): Promise<Usage> {
    const known = this.#measured.get(folder);
    if (known !== undefined && this.#clock.nowMs() < known.untilMs) return known.usage;
    return this.#flights.run(folder, async () => {
      const startMs = this.#clock.nowMs();
      const usage = await measure(folder);
      const endMs = this.#clock.nowMs();
      this.#measured.set(folder, { usage, untilMs: endMs + (endMs - startMs) * REST_FACTOR });
      return usage;
    });
  }

  /** Of now. */
  now(folder: string): Promise<Usage> {
    return measure(folder);
  }
}

async function measure(folder: string): Promise<Usage> {
  const links = new Set<string>();
  // Names are bytes, and need not be text.
  const todo = [Buffer.from(folder)];
  let [sizeBytes, inodes] = [0, 0];
  const count = (facts: Stats): void => {
    const link = `${facts.dev}:${facts.ino}`;
    if (facts.nlink > 1 && !facts.isDirectory()) {
      if (links.has(link)) return;
      links.add(link);
    }
    sizeBytes += facts.blocks * BLOCK_BYTES;
    inodes++;
  };
  for (let path = todo.pop(); path !== undefined; path = todo.pop()) {
    const facts = await ifThere(lstat(path));
    if (facts === undefined) continue;
    count(facts);
    if (!facts.isDirectory()) continue;
    const names = (await ifThere(readdir(path, { encoding: 'buffer' }))) ?? [];
    for (const name of names) todo.push(Buffer.concat([path, Buffer.from('/'), name]));
  }
  return { sizeBytes, inodes };
}

async function ifThere<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
