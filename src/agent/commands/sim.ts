import { readFile } from 'node:fs/promises';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { parseTrace, type TraceAccess } from '../../image/trace.ts';
import { SystemClock } from '../../runtime/node/clock.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { FAULTS, type FaultName } from '../../sim/faults.ts';
import { Summary, type FailedSeed } from '../../sim/summary.ts';
import { World } from '../../sim/world.ts';
import { WORLD_DEFAULTS, type WorldInit, type WorldResult } from '../../sim/world-types.ts';
import { columns, jsonOption } from './output.ts';

/**
 * Containers per host when `--containers-per-host` is absent. With faults the times matter less,
 * and runs have many seeds.
 */
const CONTAINERS = 10;
const CONTAINERS_WITH_FAULTS = 2;

/** Maximum number of seeds in one run: a night's work. */
const SEEDS_MAX = 1_000_000;

/** Time between two progress lines. */
const PROGRESS_MS = 2_000;

interface Options {
  readonly hosts: number;
  readonly containersPerHost?: number;
  readonly roots: number;
  readonly groups?: number;
  readonly zones: number;
  readonly seed: number;
  readonly seeds?: readonly [first: number, last: number];
  readonly faults: readonly FaultName[];
  readonly workload: 'start' | 'full';
  readonly road: 'device' | 'prefix';
  readonly trace: string;
  readonly vcpus: number;
  readonly nicGbit: number;
  readonly latencyMs: number;
  readonly quiet?: boolean;
  readonly json?: boolean;
}

/** `xylem sim`: runs the production reducers in a simulated cluster. */
export function registerSim(program: Command): void {
  const faults = Object.entries(FAULTS).map(([name, text]) => `  ${name.padEnd(10)} ${text}`);
  program
    .command('sim')
    .description('run the agent logic in a simulated cluster; the same seed gives the same result')
    .addOption(count('--hosts <n>', 'hosts that run containers', [1, 100_000]).default(100))
    .addOption(count('--containers-per-host <n>', 'containers that start on each host', [1, 1000]))
    .addOption(count('--roots <n>', 'root agents, on hosts of their own', [1, 64]).default(4))
    .addOption(
      count(
        '--groups <n>',
        'groups of hosts with 4 relays each, 0: none (default: one per 1,000 hosts from 2,000 on)',
        [0, 128],
      ),
    )
    .addOption(count('--zones <n>', 'zones that the hosts are spread over', [1, 64]).default(1))
    .addOption(count('--seed <n>', 'seed of the world', [0, 2 ** 32]).default(1))
    .addOption(
      new Option('--seeds <a..b>', 'run many seeds, and sum up their results').argParser(
        parseSeeds,
      ),
    )
    .addOption(
      new Option('--faults <list>', 'names from the list below, or "all"')
        .argParser(parseFaults)
        .default([] as readonly FaultName[], 'none'),
    )
    .addOption(
      new Option('--workload <kind>', 'start containers, or read whole images')
        .choices(['start', 'full'])
        .default('start'),
    )
    .addOption(
      new Option('--road <kind>', 'containers read by the device, or through the HTTP prefix')
        .choices(['device', 'prefix'])
        .default('device'),
    )
    .option('--trace <kind>', 'order of reads: shipped, none, or a trace file', 'shipped')
    .addOption(count('--vcpus <n>', 'vCPUs of a host', [1, 1024]).default(WORLD_DEFAULTS.vcpus))
    .addOption(positive('--nic-gbit <rate>', 'rate of a NIC in Gbit/s').default(1.5))
    .addOption(positive('--latency-ms <ms>', 'one-way latency within a zone').default(0.25))
    .option('--quiet', 'print no progress on stderr')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `\nFaults:\n${faults.join('\n')}\n\nExamples:\n` +
        '  xylem sim --hosts 1000 --containers-per-host 10 --seed 1\n' +
        '  xylem sim --hosts 1000 --workload full --json | tail -1 | jq .fullMs\n' +
        '  xylem sim --hosts 200 --faults crash30,allroots,partition --seeds 1..100',
    )
    .action(async (options: Options) => {
      process.exitCode = await runSeeds(options, await accessesOf(options.trace));
    });
}

async function accessesOf(trace: string): Promise<readonly TraceAccess[] | undefined> {
  if (trace === 'shipped' || trace === 'none') return undefined;
  return parseTrace(await readFile(trace), new NodeCodec());
}

async function runSeeds(
  options: Options,
  accesses: readonly TraceAccess[] | undefined,
): Promise<number> {
  const summary = new Summary();
  const [first, last] = options.seeds ?? [options.seed, options.seed];
  const clock = new SystemClock();
  const codec = new NodeCodec();
  let saidMs = clock.nowMs();
  for (let seed = first; seed <= last; seed++) {
    const world = await World.make({ codec }, worldInit(options, seed, accesses));
    const result = world.run((worldMs, busy) => {
      if (options.quiet === true || clock.nowMs() - saidMs < PROGRESS_MS) return;
      saidMs = clock.nowMs();
      process.stderr.write(`seed ${seed}: ${Math.round(worldMs)} ms simulated, ${busy} left\n`);
    });
    summary.add(world, result);
    const failure = summary.failed.at(-1);
    if (failure?.seed === seed) sayFailure(failure, options);
  }
  const result = summary.result();
  if (result === undefined) return 0;
  process.stdout.write(`${options.json === true ? JSON.stringify(result) : textOf(result)}\n`);
  return result.violations > 0 ? 1 : 0;
}

function worldInit(
  options: Options,
  seed: number,
  accesses: readonly TraceAccess[] | undefined,
): WorldInit {
  const withFaults = options.faults.length > 0;
  return {
    ...WORLD_DEFAULTS,
    hosts: options.hosts,
    containersPerHost:
      options.containersPerHost ?? (withFaults ? CONTAINERS_WITH_FAULTS : CONTAINERS),
    roots: options.roots,
    groups: options.groups ?? groupsOf(options),
    zones: options.zones,
    seed,
    faults: options.faults,
    workload: options.workload,
    road: options.road,
    trace: options.trace === 'none' ? 'none' : 'shipped',
    ...(accesses !== undefined && { accesses }),
    vcpus: options.vcpus,
    nicBytesPerMs: (options.nicGbit * 1e9) / 8 / 1000,
    latencyMs: options.latencyMs,
  };
}

/**
 * A root handles about a thousand JOINs before the first read of a container; see docs/TREES.md.
 */
function groupsOf({ hosts, zones }: Options): number {
  return hosts < 2_000 ? 0 : zones * Math.ceil(hosts / 1_000 / zones);
}

/** Reports the broken rules of a seed, and the command that repeats the run. */
function sayFailure({ seed, rules, texts }: FailedSeed, options: Options): void {
  const init = worldInit(options, seed, undefined);
  const flags = [
    `--hosts ${init.hosts} --containers-per-host ${init.containersPerHost}`,
    `--roots ${init.roots} --groups ${init.groups}`,
    `--zones ${init.zones} --workload ${init.workload} --trace ${options.trace}`,
    `--vcpus ${init.vcpus} --nic-gbit ${options.nicGbit} --latency-ms ${init.latencyMs}`,
    ...(init.faults.length > 0 ? [`--faults ${init.faults.join(',')}`] : []),
    `--seed ${seed}`,
  ];
  process.stderr.write(
    `seed ${seed} broke ${rules.join(', ')}:\n${texts.map((text) => `  ${text}\n`).join('')}` +
      `  again: xylem sim ${flags.join(' ')}\n`,
  );
}

function textOf(result: WorldResult & { seeds: number }): string {
  const times = (spread: WorldResult['coldMs']): string =>
    `p50 ${spread.p50.toFixed(0)}, p99 ${spread.p99.toFixed(0)}, ` +
    `p999 ${spread.p999.toFixed(0)}, max ${spread.max.toFixed(0)} ms`;
  const full = result.fullMs;
  return columns([
    ['hosts', `${result.hosts}, ${result.containers} containers, ${result.seeds} seed(s)`],
    ['cold start', times(result.coldMs)],
    ['warm start', times(result.warmMs)],
    ...(full === undefined
      ? []
      : ([
          ['whole image', `${full.max.toFixed(0)} ms, ideal ${full.ideal.toFixed(0)} ms`],
        ] as const)),
    ['origin amplification', result.originAmplification.toFixed(3)],
    ['depth', `${result.depthMax}, bound ${result.depthBound}`],
    ['stall after a death', times(result.stallMs)],
    [
      'failed reads',
      `${result.failedReads}, without any source ${result.failedReadsWithoutSource}`,
    ],
    ['wrong bytes, cycles', `${result.wrongBytes}, ${result.cycles}`],
    ['rules broken', String(result.violations)],
  ]);
}

function count(flags: string, text: string, [least, most]: readonly [number, number]): Option {
  return new Option(flags, text).argParser((value) => {
    const number = Number(value);
    if (/^[0-9]+$/.test(value) && number >= least && number <= most) return number;
    throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
  });
}

function positive(flags: string, text: string): Option {
  return new Option(flags, text).argParser((value) => {
    const number = Number(value);
    if (Number.isFinite(number) && number > 0) return number;
    throw new InvalidArgumentError('It must be a number above 0.');
  });
}

function parseSeeds(text: string): readonly [number, number] {
  const match = /^([0-9]{1,10})\.\.([0-9]{1,10})$/.exec(text);
  const first = Number(match?.[1]);
  const last = Number(match?.[2]);
  if (match !== null && first <= last && last - first < SEEDS_MAX) return [first, last];
  throw new InvalidArgumentError('It must be FIRST..LAST, such as 1..100.');
}

function parseFaults(text: string): readonly FaultName[] {
  const known = Object.keys(FAULTS) as FaultName[];
  if (text === 'all') return known;
  return text.split(',').map((name) => {
    const found = known.find((fault) => fault === name);
    if (found !== undefined) return found;
    throw new InvalidArgumentError(`"${name}" is none of ${known.join(', ')}.`);
  });
}
