import { InvalidArgumentError, type Command } from 'commander';
import { setTimeout as sleep } from 'node:timers/promises';
import { isFinal, type PreheatJob } from '../../preheat/messages.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import { askAgent, type AdminPlace } from '../admin/admin-client.ts';
import { API, pathOf } from '../admin/api.ts';
import { AdminError } from '../admin/errors.ts';
import { preheatFailureText, preheatMissingText } from '../admin/preheat-text.ts';
import { onEndSignal } from '../end-signals.ts';
import { ProgressLine } from './long-work.ts';
import { adminOption, jsonOption, printFacts, tokenOption } from './output.ts';

/** Interval between status requests: a share of the time since the start, within bounds. */
const LOOK_MS_MIN = 50;
const LOOK_MS_MAX = 500;
const LOOK_SHARE = 0.25;

/**
 * Status requests that may fail in a row: the agent, or the root that leads the preheat, may be
 * restarting.
 */
const MISSES_MAX = 60;

interface Options extends AdminPlace {
  readonly json?: boolean;
  readonly zone?: string;
  readonly count?: number;
  readonly trace?: boolean;
  readonly pin?: boolean;
  readonly wait: boolean;
}

/** `xylem preheat`: brings an image to hosts before any container needs it. */
export function registerPreheat(program: Command): void {
  program
    .command('preheat')
    .description('bring an image to hosts ahead of need, down the tree; Ctrl-C cancels it')
    .argument('<image>', 'docker://host[:port]/name:tag')
    .option('--zone <name>', 'only to the hosts of this zone')
    .option(
      '--count <hosts>',
      'to this number of hosts, spread over their zones (default: all)',
      countOf,
    )
    .option('--trace', 'only the blocks that the trace of the image names')
    .option(
      '--pin',
      'keep the image there longest, whatever else comes (see `xylem store unpin`); ask a root',
    )
    .option('--no-wait', 'print the id of the preheat and leave it to the cluster')
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:\n  xylem preheat docker://registry.example/app:1.4\n' +
        '  xylem preheat --zone rack-7 --trace docker://registry.example/app:1.4\n' +
        '  xylem preheat --count 50 --json docker://registry.example/app:1.4 | jq .hosts',
    )
    .action(preheat);
}

async function preheat(image: string, options: Options): Promise<void> {
  const { zone, count, trace, pin } = options;
  const started = await askAgent(options, 'preheat', {
    image,
    part: trace === true ? 'trace' : 'image',
    pin: pin === true,
    ...(zone !== undefined && { zone }),
    ...(count !== undefined && { count }),
  });
  if (!options.wait) {
    const path = pathOf(API.preheatStatus, started);
    printFacts(options.json, started, `preheat ${started.id} of ${image} has started; see ${path}`);
    return;
  }
  const job = await follow(started, options);
  if (job.state !== 'done') {
    throw new AdminError(preheatFailureText(job), { code: 'preheat', id: job.id });
  }
  const { totalBytes } = sums(job);
  const hosts = `${job.hosts.length} host${job.hosts.length === 1 ? '' : 's'}`;
  const seconds = ((job.finishedMs ?? job.startedMs) - job.startedMs) / 1000;
  const size = formatSizeBytes(totalBytes / Math.max(1, job.hosts.length));
  const missing = preheatMissingText(job);
  const without = missing === undefined ? '' : `; ${missing}`;
  const text = `${image} is on ${hosts}: ${size} each, ${seconds.toFixed(1)} s${without}`;
  printFacts(options.json, job, text);
}

/** Shows how the preheat goes until it is over. A signal ends it everywhere. */
async function follow(started: PreheatJob, place: AdminPlace): Promise<PreheatJob> {
  const interrupted = new AbortController();
  const leave = onEndSignal(() => interrupted.abort());
  const progress = new ProgressLine();
  const { id } = started;
  try {
    let job = started;
    const startMs = performance.now();
    for (let misses = 0; !isFinal(job.state); ) {
      const shareMs = (performance.now() - startMs) * LOOK_SHARE;
      const pauseMs = Math.min(LOOK_MS_MAX, Math.max(LOOK_MS_MIN, shareMs));
      await sleep(pauseMs, undefined, { signal: interrupted.signal }).catch(() => {});
      const route = interrupted.signal.aborted ? 'cancelPreheat' : 'preheatStatus';
      try {
        job = await askAgent(place, route, { id });
        misses = 0;
      } catch (error) {
        if (route === 'cancelPreheat' || ++misses >= MISSES_MAX || !mayPass(error)) throw error;
      }
      const { doneBytes, totalBytes, doneCount } = sums(job);
      progress.show(`${doneCount} of ${job.hosts.length} hosts`, doneBytes, totalBytes);
    }
    return job;
  } finally {
    leave();
    progress.clear();
  }
}

/** Whether the failed request may succeed soon. */
function mayPass(error: unknown): boolean {
  if (!(error instanceof AdminError)) return false;
  const { detail } = error;
  if (detail.code === 'admin-refused') return detail.status >= 500;
  return detail.code === 'admin-unreachable' || detail.code === 'admin-timeout';
}

function sums(job: PreheatJob): { doneBytes: number; totalBytes: number; doneCount: number } {
  let [doneBytes, totalBytes, doneCount] = [0, 0, 0];
  for (const host of job.hosts) {
    doneBytes += host.doneBytes;
    totalBytes += host.totalBytes;
    if (host.state === 'done') doneCount++;
  }
  return { doneBytes, totalBytes, doneCount };
}

function countOf(text: string): number {
  if (/^[1-9][0-9]{0,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a number of hosts from 1 to 99999.');
}
