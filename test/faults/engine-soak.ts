import { SystemClock } from '../../src/runtime/node/clock.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import type { TransferEngine } from '../../src/transfer/drive/engine.ts';
import { errorText } from '../../src/util/errors.ts';
import type { FaultReport } from './fault-report.ts';
import { makeHosts, SoakOrigin, type SoakHost } from './soak-cluster.ts';
import { TruthBlob } from './truth.ts';

const ROOTS = 2;
const CHILDREN = 5;

/** Reads of each host in a round, at most `READERS_PER_HOST` in flight. */
const READS_PER_HOST = 40;
const READERS_PER_HOST = 4;
const READ_BYTES_MAX = 700_000;

/** Sizes of the blobs, in bytes: one or two of them are in stripes. */
const BLOB_BYTES_MIN = 700_000;
const BLOB_BYTES_MAX = 9_000_000;

/** Share of reads from an earlier blob: one in five. */
const EARLIER_SHARE = 0.2;
const DOWN_MS_MAX = 1_500;
const POLL_MS = 20;
const STOP_MS_MAX = 30_000;

const ORIGIN = { registry: 'registry.test', repository: 'app' };

/**
 * Real engines, stores and connections in one process, on faulty disks and behind faulty
 * transports. Every round has a new blob, and one host, root or not, loses its power under load.
 * Every read returns the right bytes, and none fails, since the registry has everything. At the end
 * all faults stop, and every host reads everything.
 */
export async function engineSoak(
  init: { seed: number; rounds: number; planted?: 'wrong-origin' },
  report: FaultReport,
): Promise<void> {
  const random = new SeededRandom(`engine soak ${init.seed}`);
  const origin = new SoakOrigin({ random: random.split('origin'), report });
  origin.wrong = init.planted === 'wrong-origin';
  const hosts = await makeHosts({ random, report, origin }, { roots: ROOTS, children: CHILDREN });
  const soak = new Soak({ random, report, origin, hosts }, init);
  try {
    for (const host of hosts) await host.start();
    for (let round = 0; round < init.rounds; round++) await soak.round(round);
    await soak.heal();
  } finally {
    await Promise.all(hosts.map((host) => stopped(host, init.seed, report)));
  }
}

/** Stops the host. A stop that does not end is a broken promise, and no reason to wait longer. */
async function stopped(host: SoakHost, seed: number, report: FaultReport): Promise<void> {
  const clock = new SystemClock();
  const late = clock.setTimer(STOP_MS_MAX, () => {
    const where = `${host.card.peer} did not stop in ${STOP_MS_MAX} ms`;
    report.violate('broken promise', `${where}; again: --only engine --seed ${seed}`);
    gaveUp.resolve();
  });
  const gaveUp = Promise.withResolvers<void>();
  await Promise.race([host.stop(), gaveUp.promise]);
  late.cancel();
}

interface Parts {
  readonly random: SeededRandom;
  readonly report: FaultReport;
  readonly origin: SoakOrigin;
  readonly hosts: readonly SoakHost[];
}

class Soak {
  readonly #parts: Parts;
  readonly #seed: number;
  readonly #clock = new SystemClock();
  readonly #blobs: TruthBlob[] = [];

  constructor(parts: Parts, init: { seed: number }) {
    this.#parts = parts;
    this.#seed = init.seed;
  }

  async round(round: number): Promise<void> {
    const { random, hosts, origin } = this.#parts;
    const own = random.split(`round ${round}`);
    const size = Math.floor(own.between(BLOB_BYTES_MIN, BLOB_BYTES_MAX));
    const blob = new TruthBlob(`engine ${this.#seed}/${round}`, size);
    origin.blobs.set(blob.ref.digest, blob);
    this.#blobs.push(blob);
    const victim = hosts[own.below(hosts.length)];
    const crashAt = own.below((hosts.length * READS_PER_HOST) / 2);
    let reads = 0;
    let crash: Promise<void> | undefined;
    const onRead = (): void => {
      if (reads++ !== crashAt || victim === undefined) return;
      crash = this.#crash(victim, own.below(DOWN_MS_MAX));
    };
    await Promise.all(
      hosts.map((host) => this.#load(host, own.split(host.card.peer), { onRead, blob })),
    );
    await crash;
  }

  /** All faults stop: every host reads every blob. */
  async heal(): Promise<void> {
    const { hosts, origin } = this.#parts;
    origin.faulty = false;
    for (const host of hosts) host.setFaulty(false);
    for (const blob of this.#blobs) {
      await Promise.all(hosts.map((host) => this.#read(host, blob, [0, blob.ref.sizeBytes])));
    }
  }

  async #crash(host: SoakHost, downMs: number): Promise<void> {
    await host.crash();
    this.#parts.report.add('crashes', 'engine, loss of power (real engine, simulated disk)');
    await this.#clock.sleep(downMs);
    await host.start();
  }

  async #load(
    host: SoakHost,
    random: SeededRandom,
    { blob, onRead }: { blob: TruthBlob; onRead: () => void },
  ): Promise<void> {
    let left = READS_PER_HOST;
    const reader = async (): Promise<void> => {
      while (left-- > 0) {
        const earlier = this.#blobs[random.below(this.#blobs.length)] ?? blob;
        const which = random.float() < EARLIER_SHARE ? earlier : blob;
        const offset = random.below(which.ref.sizeBytes);
        const length = Math.min(which.ref.sizeBytes - offset, random.below(READ_BYTES_MAX));
        await this.#read(host, which, [offset, length]);
        onRead();
      }
    };
    await Promise.all(Array.from({ length: READERS_PER_HOST }, reader));
  }

  /** Reads; repeats the read after each crash of its own host that cuts it off. */
  async #read(
    host: SoakHost,
    truth: TruthBlob,
    [offset, length]: readonly [number, number],
  ): Promise<void> {
    const { report } = this.#parts;
    const { ref } = truth;
    const where =
      `${offset}+${length} of ${ref.digest} at ${host.card.peer}; ` +
      `again: --only engine --seed ${this.#seed}`;
    for (;;) {
      const engine = await this.#up(host);
      const { life } = host;
      try {
        await engine.tree.open([{ blob: ref, origin: ORIGIN }]);
        const found = await engine.read(ref, offset, length, { kind: 'demand' });
        report.add('checked', 'reads through engines');
        report.compare(found, truth.bytes(offset, length), where);
        return;
      } catch (error) {
        if (host.engine !== undefined && host.life === life) {
          report.violate('failed read', `${errorText(error)}: ${where}`);
          return;
        }
        report.add('checked', 'reads cut off by a crash of their own host');
      }
    }
  }

  async #up(host: SoakHost): Promise<TransferEngine> {
    while (host.engine === undefined) await this.#clock.sleep(POLL_MS);
    return host.engine;
  }
}
