import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { askAgent, type AdminPlace } from '../admin/admin-client.ts';
import type { Answer } from '../admin/api.ts';
import { AdminError } from '../admin/errors.ts';
import { ProgressLine } from './long-work.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import { adminOption, columns, jsonOption, printFacts, tokenOption } from './output.ts';

/** Interval between two looks at the state. */
const LOOK_MS = 500;

/** Looks that may fail in a row: the root may be restarting, and goes on afterwards. */
const MISSES_MAX = 60;

type Image = Answer<'accelerate'>;
type Kept = Answer<'images'>['kept'];

interface Options extends AdminPlace {
  readonly json?: boolean;
  readonly none?: boolean;
  readonly wait?: boolean;
}

const TEXT = `
Ask a root whose configuration has acceleration.enabled. It converts the image in a process of its
own, looks at the tag now and then, and converts what it moves to. See docs/ACCELERATION.md.

Examples:
  xylem accelerate docker://registry.example/app:1.4
  xylem accelerate --wait docker://registry.example/app:1.4
  xylem accelerate --none docker://registry.example/app:1.4
  xylem accelerate ls`;

/** `xylem accelerate`: has a root make block images of an image. */
export function registerAccelerate(program: Command): void {
  const accelerate = program
    .command('accelerate')
    .description('have a root make block images of an image, and keep up with its tag')
    .argument('<image>', 'docker://host[:port]/name:tag')
    .option('--none', 'stop that, and remove the block images from what mirrors give')
    .option('--wait', 'until the block images are ready; fail when they cannot be made')
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText('after', TEXT)
    .action(set);
  accelerate
    .command('ls')
    .description('list the images that a root accelerates, and what it keeps in registries')
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:\n  xylem accelerate ls\n' +
        '  xylem accelerate ls --json | jq \'.images[] | select(.state == "Failed")\'\n' +
        "  xylem accelerate ls --json | jq '.kept.sizeBytes'",
    )
    .action(async (_: Options, command: Command) => {
      // The command above has the same options, and takes them first.
      const options = command.optsWithGlobals<Options>();
      const answer = await askAgent(options, 'images');
      printFacts(options.json, answer, listText(answer));
    });
}

async function set(image: string, options: Options): Promise<void> {
  const accelerationType = options.none === true ? 'None' : 'Default';
  const begun = await askAgent(options, 'accelerate', { image, accelerationType });
  if (options.none === true) {
    printFacts(options.json, begun, `${image} is accelerated no more`);
  } else if (options.wait === true) {
    const ready = await readyOf(image, options);
    printFacts(options.json, ready, `${image} is ready: ${imagesText(ready)}`);
  } else {
    printFacts(options.json, begun, `${image}: ${stateText(begun)}; see \`xylem accelerate ls\``);
  }
}

/** Waits until the image is ready. Throws AdminError (`acceleration`) when the attempt fails. */
async function readyOf(image: string, place: AdminPlace): Promise<Image> {
  const progress = new ProgressLine();
  try {
    for (let misses = 0; ; await sleep(LOOK_MS)) {
      let found: Image | undefined;
      try {
        [found] = (await askAgent(place, 'images', { image })).images;
        misses = 0;
      } catch (error) {
        if (!mayPass(error) || ++misses >= MISSES_MAX) throw error;
        continue;
      }
      if (found?.state === undefined || found.failure !== undefined) throw failureOf(image, found);
      // It may be an earlier version until the tag has been looked at.
      if (found.state === 'Ready' && (found.lookedMs ?? 0) >= found.requestedMs) return found;
      const { step = 'waiting', doneBytes = 0, totalBytes = 1 } = found.progress ?? {};
      progress.show(step, doneBytes, totalBytes);
    }
  } finally {
    progress.clear();
  }
}

function mayPass(error: unknown): boolean {
  if (!(error instanceof AdminError)) return false;
  return error.code === 'admin-unreachable' || error.code === 'admin-timeout';
}

function failureOf(image: string, found: Image | undefined): AdminError {
  const { kind = 'other', reason = 'somebody stopped it' } = found?.failure ?? {};
  const next = found?.nextMs === undefined ? '' : `; tried again at ${timeOf(found.nextMs)}`;
  const what = `the acceleration of ${image} failed: ${reason}${next}`;
  return new AdminError(what, { code: 'acceleration', image, kind });
}

function listText({ images, kept }: Answer<'images'>): string {
  const list =
    images.length === 0
      ? 'This root accelerates no images.'
      : columns(images.map((image) => [image.image, stateText(image)]));
  return [list, ...keptText(kept)].join('\n');
}

/** What lies in registries, and what of it goes next. */
function keptText({ things, sizeBytes }: Kept): readonly string[] {
  if (things.length === 0) return [];
  const idle = things.filter(({ idleMs }) => idleMs !== undefined);
  const nextMs = Math.min(...idle.map(({ removeMs }) => removeMs ?? Infinity));
  const when =
    nextMs === Infinity ? '' : `; removed from ${timeOf(nextMs)} on, if nobody refers to it`;
  const unused = idle.length === 0 ? [] : [`Nothing needs ${countsOf(idle)} of these${when}`];
  const reasons = new Set(idle.flatMap(({ reason }) => reason ?? []));
  return [
    `In registries: ${countsOf(things)}, ${formatSizeBytes(sizeBytes)}`,
    ...unused,
    ...[...reasons].map((reason) => `Not removed: ${reason}`),
  ];
}

function countsOf(things: Kept['things']): string {
  const images = things.filter(({ kind }) => kind === 'image').length;
  const layers = things.length - images;
  const of = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`;
  return `${of(images, 'block image')}, ${of(layers, 'kept layer')}`;
}

function stateText(image: Image): string {
  const { state, failure, progress, failures, nextMs } = image;
  const again = nextMs === undefined ? '' : `; again at ${timeOf(nextMs)}`;
  const why = failure === undefined ? '' : `: ${failure.reason}${again}`;
  if (image.accelerationType === 'None') return `being removed${why}`;
  if (state === 'Failed') return `Failed (${failures} in a row)${why}`;
  if (state === 'Ready') return `Ready: ${imagesText(image)}${why}`;
  if (progress === undefined) return 'Preparing';
  const { step, doneBytes, totalBytes } = progress;
  return `Preparing: ${step} ${percent(doneBytes, totalBytes)} %`;
}

function imagesText({ ready }: Image): string {
  const images = ready?.images ?? [];
  return images.map(({ platform, digest }) => `${platform} ${digest}`).join(', ');
}

function percent(done: number, total: number): number {
  return total === 0 ? 100 : Math.floor((done / total) * 100);
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString();
}
