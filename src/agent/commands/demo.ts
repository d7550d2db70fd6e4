import { InvalidArgumentError, type Command } from 'commander';
import { Demo, type DemoResult, type DemoRound } from '../../demo/demo.ts';
import { BLOCK_KIB, roundTable, tableLegend } from '../../demo/figures.ts';
import { DemoError } from '../../demo/processes.ts';
import { onEndSignal } from '../end-signals.ts';
import { jsonOption } from './output.ts';

/** Each agent is a process of some 100 MB; a laptop has no room for more agents than this. */
const HOSTS_MAX = 64;

interface Options {
  readonly hosts: number;
  readonly keep?: boolean;
  readonly json?: boolean;
}

/**
 * `xylem demo`: runs a registry, a root and several agents on this machine, and mounts an image on
 * each.
 */
export function registerDemo(program: Command): void {
  program
    .command('demo')
    .description(
      'mount a real image on several agents of this machine, and show where each got its blocks',
    )
    .option('--hosts <n>', 'agents beside the root', parseHosts, 6)
    .option('--keep', "keep the agents' logs and stores, and print their folder")
    .addOption(jsonOption())
    .addHelpText('after', '\nExamples:\n  xylem demo\n  xylem demo --hosts 16 --json')
    .action(runDemo);
}

function parseHosts(text: string): number {
  const hosts = Number(text);
  if (Number.isInteger(hosts) && hosts >= 1 && hosts <= HOSTS_MAX) return hosts;
  throw new InvalidArgumentError(`It must be a whole number from 1 to ${HOSTS_MAX}.`);
}

async function runDemo(options: Options): Promise<void> {
  const abort = new AbortController();
  const leave = onEndSignal(() =>
    abort.abort(new DemoError('the demo was interrupted', { code: 'interrupted' })),
  );
  const startMs = performance.now();
  const say = (line: string): void => {
    const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
    process.stderr.write(`[${seconds.padStart(5)} s] ${line}\n`);
  };
  const demo = new Demo(
    { say },
    { hosts: options.hosts, keep: options.keep === true, signal: abort.signal },
  );
  try {
    const { result, rounds } = await demo.run();
    if (options.json !== true) process.stdout.write(`${report(result, rounds)}\n`);
    say('stopping the agents');
    await demo.stop();
    if (options.json === true) process.stdout.write(`${JSON.stringify(result)}\n`);
  } finally {
    await demo.stop();
    leave();
  }
}

function report(result: DemoResult, rounds: readonly DemoRound[]): string {
  const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const summary = (['cold', 'warm'] as const).map((name) => {
    const { originBytes, peerBytes, ms } = result[name];
    const amplification =
      name === 'cold' ? `, amplification ${(originBytes / result.touchedBytes).toFixed(3)}` : '';
    return (
      `${name}: origin ${mib(originBytes)}, peers ${mib(peerBytes)}${amplification}; ` +
      `ms to the report: p50 ${ms.p50}, p99 ${ms.p99}, max ${ms.max}`
    );
  });
  return [
    ...rounds.map((round) => `${roundTable(round.title, round.hosts)}\n`),
    `${tableLegend()}\n`,
    ...summary,
    `image ${mib(result.imageBytes)}, distinct blocks touched ${mib(result.touchedBytes)} ` +
      `(blocks of ${BLOCK_KIB} KiB), tree depth ${result.depthMax}, ` +
      `failed reads ${result.failedReads}`,
  ].join('\n');
}
