import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { ConversionResult } from '../src/convert/convert-image.ts';
import { blobPath } from '../src/convert/oci-layout.ts';
import { defined } from '../src/util/assert.ts';
import { GIB, MIB } from '../src/util/bytes.ts';
import { makeDebianImages, type DebianLayer } from '../test/kit/debian-image.ts';
import type { LayerName } from '../test/kit/debian-layers.ts';
import { debianFault } from '../test/kit/debian-packages.ts';
import { startDockerRegistry } from '../test/kit/docker-registry.ts';
import { withEndings } from '../test/kit/endings.ts';
import { needs } from '../test/kit/requires.ts';
import { tempFolder, type AtEnd } from '../test/kit/temp-folder.ts';
import { runXylem, type CommandRun } from './cli.ts';
import { makeLargeImage, makeManyFiles } from './made-images.ts';
import { timed, verdict, type BenchRow } from './rows.ts';

const run = promisify(execFile);

/** Layers of the image, and the one that a later version of it adds. */
const IMAGE: Readonly<Record<Size, { layers: readonly LayerName[]; added: LayerName }>> = {
  full: { layers: ['base', 'python', 'numpy', 'node', 'chromium', 'model'], added: 'web' },
  smoke: { layers: ['base'], added: 'python' },
};

const FILES = { full: 100_000, smoke: 500 };
const LARGE_BYTES = { full: 10 * GIB, smoke: 32 * MIB };

/** A goal of the project. */
const PEAK_MIB_MAX = 512;

type Size = 'full' | 'smoke';
type Converted = CommandRun<ConversionResult>;

/** What `xylem check --json` prints, of which this reads a part. */
interface CheckFacts {
  readonly platforms: readonly {
    readonly comparison?: { readonly entryCount: number; readonly differenceCount: number };
  }[];
}

/** Where images come from and go to: two registries, so that no blob is there already. */
interface Places {
  readonly layout: string;
  readonly source: string;
  readonly target: string;
}

/**
 * Converts an image of Debian packages from one registry to another and checks the result, beside
 * what `skopeo copy` and gunzip take for the same layers; then an image of small files, and a large
 * one. Needs apt, docker-registry, skopeo and e2fsprogs.
 */
export async function benchConvert(options: { smoke: boolean }): Promise<BenchRow[]> {
  const programs = ['docker-registry', 'skopeo', 'mke2fs', 'gzip'].map(needs.program);
  const fault = [...programs, debianFault].map((need) => need()).find(Boolean);
  if (fault !== undefined) {
    process.stderr.write(`convert: skipped: ${fault}\n`);
    return [];
  }
  const size: Size = options.smoke ? 'smoke' : 'full';
  return withEndings(async (atEnd) => [
    ...(await benchDebian(size, atEnd)),
    ...(await withEndings((end) => benchMade('many files', FILES[size], makeManyFiles, end))),
    ...(await withEndings((end) => benchMade('large', LARGE_BYTES[size], makeLargeImage, end))),
  ]);
}

async function benchDebian(size: Size, atEnd: AtEnd): Promise<BenchRow[]> {
  const layout = tempFolder(atEnd);
  const { layers, added } = IMAGE[size];
  const { images } = await makeDebianImages(layout, { v1: layers, v2: [...layers, added] });
  const places = {
    layout,
    source: await startDockerRegistry({}, atEnd),
    target: await startDockerRegistry({}, atEnd),
  };
  for (const tag of ['v1', 'v2']) {
    await runXylem([
      'push',
      '--insecure',
      `oci:${layout}:${tag}`,
      `docker://${places.source}/${tag}:1`,
    ]);
  }
  const v1 = defined(images['v1'], 'the image was made');
  return [
    ...imageRows(v1),
    ...(await benchOthers(v1, places)),
    ...(await benchConversions(v1, places)),
  ];
}

function imageRows(layers: readonly DebianLayer[]): BenchRow[] {
  const packages = sumOf(layers, ({ packageCount }) => packageCount);
  const gzipMb = sumOf(layers, ({ sizeBytes }) => sizeBytes) / 1e6;
  const note = `${layers.length} layers, ${packages} packages, ${gzipMb.toFixed(0)} MB with gzip`;
  const value = sumOf(layers, ({ tarBytes }) => tarBytes) / 1e6;
  return [{ bench: 'convert', what: 'image', value, unit: 'MB', note }];
}

/** What has to be done with the layers in any case, by programs that many use. */
async function benchOthers(layers: readonly DebianLayer[], places: Places): Promise<BenchRow[]> {
  const { layout, source, target } = places;
  const plain = ['--src-tls-verify=false', '--dest-tls-verify=false'];
  const from = `docker://${source}/v1:1`;
  const copy = ['--insecure-policy', 'copy', ...plain, from, `docker://${target}/copied:1`];
  const copied = await timed(() => run('skopeo', copy));
  const unpacked = await timed(async () => {
    for (const { digest } of layers) {
      await run('sh', ['-c', 'exec gzip -dc < "$0" > /dev/null', blobPath(layout, digest)]);
    }
  });
  return [
    { bench: 'convert', what: 'skopeo copy', value: copied, unit: 's' },
    { bench: 'convert', what: 'gunzip of the layers', value: unpacked, unit: 's' },
  ];
}

async function benchConversions(
  layers: readonly DebianLayer[],
  { source, target }: Places,
): Promise<BenchRow[]> {
  const convert = (from: string, to: string, ...options: readonly string[]): Promise<Converted> =>
    runXylem([
      'convert',
      '--insecure',
      ...options,
      `docker://${source}/${from}:1`,
      `docker://${target}/${to}`,
    ]);
  const first = await convert('v1', 'app:1');
  const apart = await convert('v1', 'apart:1', '--no-reuse');
  const again = await convert('v1', 'app:again');
  const next = await convert('v2', 'app:2');
  const checked = await check(`docker://${target}/app:2`, `docker://${source}/v2:1`);
  const digests = [first, apart, again].map(({ printed }) => printed.digest);
  const same = digests.filter((digest) => digest === first.printed.digest).length;
  const tarBytes = sumOf(layers, (layer) => layer.tarBytes);
  const gzipBytes = sumOf(layers, ({ sizeBytes }) => sizeBytes);
  const blocks = layersOf(first).map(({ sizeBytes }) => sizeBytes);
  return [
    ...rowsOf('convert', first, tarBytes),
    ...rowsOf('again, --no-reuse', apart, tarBytes),
    ...rowsOf('again, all layers reused', again),
    ...rowsOf(`one more layer, ${reusedIn(next)} reused`, next),
    ...checkRows('one more layer', checked),
    {
      bench: 'convert',
      what: 'same digests',
      value: same,
      unit: 'of 3',
      note: verdict(same === digests.length, 'all'),
    },
    {
      bench: 'convert',
      what: 'bytes of blocks over gzip',
      value: blocks.reduce((sum, bytes) => sum + bytes, 0) / gzipBytes,
      unit: 'x',
    },
  ];
}

/** An image of one layer that is made on the spot, from a layout to a layout. */
async function benchMade(
  what: string,
  amount: number,
  make: typeof makeLargeImage,
  atEnd: AtEnd,
): Promise<BenchRow[]> {
  const layout = tempFolder(atEnd);
  const { tarBytes } = await make(layout, 'made', amount);
  const out = tempFolder(atEnd);
  const converted = await runXylem<ConversionResult>([
    'convert',
    '--no-reuse',
    `oci:${layout}:made`,
    `oci:${out}:blocks`,
  ]);
  const checked = await check(`oci:${out}:blocks`, `oci:${layout}:made`);
  const name = `${what} (${amount >= MIB ? `${amount / MIB} MiB` : amount})`;
  return [...rowsOf(name, converted, tarBytes), ...checkRows(name, checked)];
}

/** Compares a block image with its original. Rejects when they differ. */
function check(image: string, original: string): Promise<CommandRun<CheckFacts>> {
  return runXylem<CheckFacts>(['check', '--insecure', image, original]);
}

function checkRows(what: string, checked: CommandRun<CheckFacts>): readonly BenchRow[] {
  const { seconds, peakMib, cpuSeconds, printed } = checked;
  const { comparison } = defined(printed.platforms[0], 'an image has a platform');
  const { entryCount, differenceCount } = defined(comparison, 'the original was named');
  const found = `${differenceCount} differences in ${entryCount} files and directories`;
  const note = `${found}, ${cpuSeconds.toFixed(1)} s of CPU`;
  return [
    { bench: 'convert', what: `${what}, checked`, value: seconds, unit: 's', note },
    { bench: 'convert', what: `${what}, checked, peak RSS`, value: peakMib, unit: 'MiB' },
  ];
}

function rowsOf(what: string, converted: Converted, tarBytes?: number): BenchRow[] {
  const { seconds, peakMib, cpuSeconds } = converted;
  const rate = tarBytes && `${(tarBytes / 1e6 / seconds).toFixed(0)} MB/s of tar, `;
  const note = `${rate ?? ''}${cpuSeconds.toFixed(1)} s of CPU`;
  const peak = verdict(peakMib <= PEAK_MIB_MAX, `at most ${PEAK_MIB_MAX}`);
  return [
    { bench: 'convert', what, value: seconds, unit: 's', note },
    { bench: 'convert', what: `${what}, peak RSS`, value: peakMib, unit: 'MiB', note: peak },
  ];
}

function layersOf({ printed }: Converted) {
  return defined(printed.platforms[0], 'an image has a platform').layers;
}

function reusedIn(converted: Converted): number {
  return layersOf(converted).filter(({ isReused }) => isReused).length;
}

function sumOf<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((sum, item) => sum + value(item), 0);
}
