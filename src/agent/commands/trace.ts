import { readFile, writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { findBlockImage, readShippedTrace } from '../../convert/block-image.ts';
import { CheckedLayers } from '../../convert/checked-layers.ts';
import { ConvertError } from '../../convert/errors.ts';
import { failing } from '../../convert/files.ts';
import { isPlace, openSource, openTarget, PLACES } from '../../convert/places/open-place.ts';
import { shipTrace, type ShippedTrace } from '../../convert/ship-trace.ts';
import type { Digest } from '../../image/digest.ts';
import { ImageError } from '../../image/errors.ts';
import { blockLayers } from '../../image/manifest.ts';
import { encodeTrace, parseTrace, type TraceAccess } from '../../image/trace.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { SystemClock } from '../../runtime/node/clock.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { jsonLogger } from '../../runtime/node/logger.ts';
import { hostRuntime, type Runtime } from '../../trace/container.ts';
import { followOutside, isIsolated, runIsolated } from '../../trace/isolate.ts';
import { plotTrace } from '../../trace/plot.ts';
import { recordTrace, type Recording } from '../../trace/record.ts';
import { summaryOf, type TraceSummary } from '../../trace/summary.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import {
  addRegistryOptions,
  platformOf,
  withPlaces,
  type RegistryOptions,
} from './image-places.ts';
import { inWorkFolder, longWork } from './long-work.ts';
import { columns, jsonOption, printFacts } from './output.ts';

/** Accesses that are printed without --all. */
const SHOWN = 10;

/** A month: longer than any timer of Node would be a mistake. */
const TIMEOUT_SECONDS_MAX = 30 * 86_400;

interface RecordOptions extends RegistryOptions {
  readonly platform?: string;
  readonly out?: string;
  readonly push?: string;
  readonly timeout?: string;
  readonly untilHttp?: string;
  readonly runtime?: string;
  readonly anyExit?: boolean;
  readonly workDir?: string;
  readonly json?: boolean;
}

interface ShowOptions extends RegistryOptions {
  readonly platform?: string;
  readonly svg?: string;
  readonly all?: boolean;
  readonly json?: boolean;
}

const RECORD_TEXT = `
IMAGE: a block image in ${PLACES}
COMMAND: what to run; by default what the image runs

Mounts the image and runs the command on it, by runc, or by chroot where there is no runc. What it
reads first is the trace; what it writes stays in memory and is gone afterwards. It has the network
of this host, and prints to standard error. Needs root, FUSE and loop devices, and no agent.
A command that fails gives no trace, and its exit code is that of xylem. Ctrl-C gives none either.

Examples:
  xylem trace record --out app.trace oci:./images:app-1.4 -- /usr/bin/app --version
  xylem trace record --until-http http://127.0.0.1:8080/ --timeout 60 \\
      --push docker://registry.example/app:1.4 docker://registry.example/app:1.4
  xylem trace record --timeout 20 --out db.trace docker-archive:db.tar`;

const SHOW_TEXT = `
SOURCE: a file of \`xylem trace record --out\`, or an image: ${PLACES}

Examples:
  xylem trace show app.trace
  xylem trace show --svg app.svg docker://registry.example/app:1.4
  xylem trace show --json app.trace | jq '.accesses[0]'`;

/** `xylem trace`: records what a container reads first, and shows it. */
export function registerTrace(program: Command): void {
  const trace = program
    .command('trace')
    .description('record what a container of a block image reads first, or show it')
    .addHelpText('after', '\nExamples:\n  xylem trace record --help\n  xylem trace show --help');
  addRegistryOptions(
    trace
      .command('record')
      .description('run a command on a block image, and record what it reads first')
      .argument('<image>', 'the block image')
      .argument('[command...]', 'after --: what to run instead of what the image runs'),
  )
    .option('--out <file>', 'file to write the trace to; replaces an existing file')
    .option('--push <image>', 'put the image with the trace there; may be the image itself')
    .option('--timeout <seconds>', 'stop the command after this time, and keep its trace')
    .option('--until-http <url>', 'stop the command once this URL answers')
    .option('--runtime <name>', 'runc or chroot (default: runc where it is installed)')
    .option('--any-exit', 'keep the trace of a command that fails, too')
    .option('--platform <os/arch>', 'of a multi-platform image (default: that of this host)')
    .option('--work-dir <dir>', 'folder for temporary files (default: TMPDIR, else /tmp)')
    .addOption(jsonOption())
    .addHelpText('after', RECORD_TEXT)
    .action(record);
  addRegistryOptions(
    trace
      .command('show')
      .description('show a trace: how much it reads of which layer, and in which order')
      .argument('<source>', 'file of a trace, or an image that ships one'),
  )
    .option('--svg <file>', 'also draw it; replaces an existing file')
    .option('--all', 'print every access')
    .option('--platform <os/arch>', 'of a multi-platform image (default: that of this host)')
    .addOption(jsonOption())
    .addHelpText('after', SHOW_TEXT)
    .action(show);
}

async function record(
  name: string,
  command: readonly string[],
  options: RecordOptions,
): Promise<void> {
  const how = recordingOf(options);
  if (!isIsolated()) {
    process.exitCode = await runIsolated();
    return;
  }
  followOutside();
  const { out, push } = options;
  const parts = { codec: new NodeCodec(), hash: new NodeHash(), clock: new SystemClock() };
  const logger = jsonLogger({ level: 'warn' });
  const done = await withPlaces(options, push === undefined ? [name] : [name, push], (places) => {
    const source = openSource(name, places);
    const target = push === undefined ? undefined : openTarget(push, places);
    return longWork((work) =>
      inWorkFolder(options.workDir, async (folder) => {
        const image = await findBlockImage(source, { platform: how.platform, ...work });
        const layers = await CheckedLayers.open(parts, image, { ...work, folder });
        try {
          const of = { ...image, layers };
          const recording = await recordTrace({ ...parts, logger }, of, folder, {
            ...work,
            ...how,
            command,
          });
          if (hasFailed(recording, options)) return { image, recording };
          const trace = encodeTrace(recording.accesses, parts.codec);
          if (out !== undefined) await failing(out, 'write', () => writeFile(out, trace));
          const shipped = target && (await shipTrace(parts, of, { trace, target }, work));
          return { image, recording, shipped };
        } finally {
          await layers.close();
        }
      }),
    );
  });
  const { recording, shipped } = done;
  const digests = blockLayers(done.image.manifest).map(({ digest }) => digest);
  report(name, { recording, shipped, digests }, options);
}

function report(
  name: string,
  {
    recording,
    shipped,
    digests,
  }: {
    readonly recording: Recording;
    readonly shipped: ShippedTrace | undefined;
    readonly digests: readonly Digest[];
  },
  options: RecordOptions,
): void {
  const { accesses, exitCode, endedBy, command, seconds, droppedBytes } = recording;
  const summary = summaryOf(accesses, digests);
  const facts = { image: name, command, endedBy, exitCode, seconds, ...summary, droppedBytes };
  if (hasFailed(recording, options)) {
    const text = `the command ended with ${exitCode}, and its trace is not kept (--any-exit)`;
    if (options.json === true) printFacts(true, { ...facts, error: text, code: 'command' }, '');
    process.stderr.write(`xylem: ${text}\n`);
    process.exitCode = exitCode;
    return;
  }
  const { out, push } = options;
  const written = {
    ...(out !== undefined && { out }),
    ...(shipped && { pushed: push, ...shipped }),
  };
  const size = formatSizeBytes(summary.readBytes);
  const lines = [
    `${size} in ${summary.accessCount} reads of ${summary.layers.length} layers, ` +
      `${seconds.toFixed(1)} s: ${ENDS[endedBy]}`,
    ...(droppedBytes > 0
      ? [`left out ${formatSizeBytes(droppedBytes)} that came later: a mount follows no more`]
      : []),
    ...(out === undefined ? [] : [`trace: ${out}`]),
    ...(shipped === undefined ? [] : [`${push} is ${shipped.digest}`]),
  ];
  printFacts(options.json, { ...facts, ...written }, lines.join('\n'));
}

const ENDS: Readonly<Record<Recording['endedBy'], string>> = {
  exit: 'the command has ended',
  timeout: 'stopped after the time',
  answer: 'stopped after the answer',
};

function hasFailed({ exitCode = 0 }: Recording, { anyExit }: RecordOptions): boolean {
  return exitCode !== 0 && anyExit !== true;
}

function recordingOf(options: RecordOptions) {
  const { out, push, timeout, untilHttp, runtime = hostRuntime() } = options;
  if (out === undefined && push === undefined) {
    throw new ConvertError('nothing keeps the trace: name --out FILE, --push IMAGE, or both', {
      code: 'argument',
    });
  }
  const seconds = timeout === undefined ? undefined : Number(timeout);
  if (seconds !== undefined && !(seconds > 0 && seconds <= TIMEOUT_SECONDS_MAX)) {
    throw invalid('--timeout', String(timeout), 'it must be a number of seconds, for instance 30');
  }
  if (untilHttp !== undefined && !/^https?:$/.test(URL.parse(untilHttp)?.protocol ?? '')) {
    throw invalid('--until-http', untilHttp, 'it must be a URL with http:// or https://');
  }
  if (!isRuntime(runtime)) throw invalid('--runtime', runtime, 'it must be runc or chroot');
  return {
    platform: platformOf(options.platform),
    timeoutMs: seconds === undefined ? undefined : seconds * 1000,
    untilUrl: untilHttp,
    runtime,
  };
}

function isRuntime(text: string): text is Runtime {
  return text === 'runc' || text === 'chroot';
}

async function show(source: string, options: ShowOptions): Promise<void> {
  const found = isPlace(source) ? await traceOf(source, options) : await traceIn(source);
  const { accesses, digests } = found;
  const summary = summaryOf(accesses, digests);
  const { svg } = options;
  if (svg !== undefined) {
    const picture = plotTrace(source, accesses);
    await failing(svg, 'write', () => writeFile(svg, picture));
  }
  printFacts(options.json, { source, ...summary, accesses }, textOf(summary, accesses, options));
}

interface FoundTrace {
  readonly accesses: readonly TraceAccess[];
  readonly digests: readonly Digest[];
}

async function traceIn(path: string): Promise<FoundTrace> {
  const bytes = await failing(path, 'read', () => readFile(path));
  try {
    return { accesses: parseTrace(bytes, new NodeCodec()), digests: [] };
  } catch (cause) {
    if (!(cause instanceof ImageError)) throw cause;
    const what = `${path} is no trace, or a damaged one: ${cause.message}`;
    const advice = '`xylem trace record --out` writes one';
    throw new ConvertError(`${what}; ${advice}`, { code: 'file', path }, { cause });
  }
}

function traceOf(name: string, options: ShowOptions): Promise<FoundTrace> {
  const platform = platformOf(options.platform);
  return withPlaces(options, [name], (places) =>
    longWork(async ({ signal }) => {
      const image = await findBlockImage(openSource(name, places), { platform, signal });
      const accesses = await readShippedTrace(new NodeCodec(), image, signal);
      const digests = blockLayers(image.manifest).map(({ digest }) => digest);
      if (accesses !== undefined) return { accesses, digests };
      throw new ConvertError(`${name} ships no trace; \`xylem trace record\` makes one`, {
        code: 'manifest',
        digest: image.stored.digest,
      });
    }),
  );
}

function textOf(
  { layers, readBytes, accessCount }: TraceSummary,
  accesses: readonly TraceAccess[],
  { all }: ShowOptions,
): string {
  const shown = all === true ? accesses : accesses.slice(0, SHOWN);
  const rows = shown.map(({ op, layer, offset, length }, i): [string, string] => [
    String(i),
    `${op} layer ${layer}, ${formatSizeBytes(length)} at ${formatSizeBytes(offset)}`,
  ]);
  const left = accesses.length - shown.length;
  return [
    columns([
      ['reads', `${accessCount}, of ${formatSizeBytes(readBytes)}`],
      ...layers.map(({ layer, accessCount: count, readBytes: bytes, digest, first }) => {
        const of = digest === undefined ? '' : `, ${digest}`;
        const what = `${count} reads, ${formatSizeBytes(bytes)}, the first is number ${first}`;
        return [`layer ${layer}`, what + of] as [string, string];
      }),
    ]),
    ...(rows.length > 0 ? ['', columns(rows)] : []),
    ...(left > 0 ? [`... and ${left} more (--all)`] : []),
  ].join('\n');
}

function invalid(what: string, value: string, rule: string): ConvertError {
  return new ConvertError(`${what} is ${JSON.stringify(value)}: ${rule}`, { code: 'argument' });
}
