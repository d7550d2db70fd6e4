import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { errorText } from '../../src/util/errors.ts';
import { needs } from '../kit/requires.ts';
import { deviceKills } from './device-kills.ts';
import { engineSoak } from './engine-soak.ts';
import { FaultReport } from './fault-report.ts';
import { killSoak } from './kill-soak.ts';
import { CRASHES_PER_DISK, storeCrashes } from './store-crashes.ts';
import { worldCrashes } from './world-crashes.ts';

const DEVICE_NEEDS = [
  ...[needs.root, needs.fuse],
  ...['containerd', 'ctr-remote', 'runc', 'docker-registry', 'skopeo', 'fio'].map(needs.program),
];

/** A part of the run: `count` is the number of disks, worlds, rounds or kills. */
interface Part {
  readonly count: number;
  readonly quickCount: number;
  run(init: { seed: number; count: number }, report: FaultReport): Promise<void>;
}

const PARTS: Readonly<Record<string, Part>> = {
  /** 5,000 crashes. */
  store: {
    count: 5_000 / CRASHES_PER_DISK,
    quickCount: 30,
    run: async ({ seed, count }, report) => {
      for (let i = 0; i < count; i++) await storeCrashes(seed + i, report);
    },
  },
  /** About 1,700 crashes. */
  world: {
    count: 200,
    quickCount: 4,
    run: async ({ seed, count }, report) => {
      for (let i = 0; i < count; i++) await worldCrashes(seed + i, report);
    },
  },
  engine: {
    count: 10,
    quickCount: 1,
    run: ({ seed, count }, report) => engineSoak({ seed, rounds: count }, report),
  },
  kill: {
    count: 50,
    quickCount: 5,
    run: async ({ seed, count }, report) => {
      const dir = await mkdtemp(join(tmpdir(), 'xylem-faults-'));
      try {
        await killSoak({ seed, kills: count, dir }, report);
      } finally {
        await rm(dir, { recursive: true, force: true });
      }
    },
  },
  device: {
    count: 200,
    quickCount: 3,
    run: async ({ seed, count }, report) => {
      const missing = DEVICE_NEEDS.map((need) => need()).filter((reason) => reason !== undefined);
      if (missing.length > 0) console.log(`device is skipped: ${missing.join(', ')}`);
      else await deviceKills({ seed, kills: count }, report);
    },
  },
};

const HELP = `Usage: node test/faults/main.ts [--seed N] [--quick] [--only PART] [--count N]

Runs the real code under faults, and prints the injected faults, the comparisons and the violations.
Exits with 1 if there was a violation.

  --seed N     first seed of every part (1)
  --quick      a run of half a minute
  --only PART  one of ${Object.keys(PARTS).join(', ')}
  --count N    disks, worlds, rounds or kills of each part instead of its own number
`;

interface Options {
  readonly seed: number;
  readonly quick: boolean;
  readonly only: string | undefined;
  readonly count: number | undefined;
}

function parseOptions(): Options | undefined {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: '1' },
      quick: { type: 'boolean', default: false },
      only: { type: 'string' },
      count: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const { seed, quick, only, count, help } = values;
  const numbers = [seed, ...(count === undefined ? [] : [count])];
  const bad = numbers.some((text) => !/^[0-9]{1,9}$/.test(text)) || (only && !(only in PARTS));
  if (help || bad) return undefined;
  return {
    seed: Number(seed),
    quick,
    only,
    count: count === undefined ? undefined : Number(count),
  };
}

async function main({ seed, quick, only, count }: Options): Promise<number> {
  const report = new FaultReport();
  const clock = new SystemClock();
  for (const [name, part] of Object.entries(PARTS)) {
    if (only !== undefined && only !== name) continue;
    const startedMs = clock.nowMs();
    const partCount = count ?? (quick ? part.quickCount : part.count);
    try {
      await part.run({ seed, count: partCount }, report);
    } catch (error) {
      const again = `again: --only ${name} --seed ${seed} --count ${partCount}`;
      report.violate('broken promise', `${name} ended early: ${errorText(error)}; ${again}`);
      console.error(error);
    }
    const seconds = ((clock.nowMs() - startedMs) / 1000).toFixed(1);
    console.log(`${name} ${partCount} from seed ${seed}: ${seconds} s`);
  }
  console.log(`\n${report}`);
  for (const text of report.texts)
    console.log(text.replace('again: ', 'again: node test/faults/main.ts '));
  return report.violationCount > 0 ? 1 : 0;
}

const options = parseOptions();
if (options === undefined) console.error(HELP);
// An explicit exit: a leak would keep the process alive.
process.exit(options === undefined ? 2 : await main(options));
