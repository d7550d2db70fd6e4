import { mkdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { readConfig, type BlockImage } from '../convert/block-image.ts';
import type { CheckedLayers } from '../convert/checked-layers.ts';
import type { ProgressOptions } from '../convert/layer-blob.ts';
import { DeviceService } from '../device/device-service.ts';
import { MNT_DETACH, MS_NODEV, MS_NOSUID, mount, unmount } from '../device/linux.ts';
import type { TraceAccess } from '../image/trace.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Codec } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import { silentMetrics } from '../runtime/metrics.ts';
import { deadline } from '../runtime/deadline.ts';
import { MOUNT_ACCESSES_MAX } from '../transfer/read/traced-blocks.ts';
import { orAbort } from '../util/or-abort.ts';
import { Container, type Runtime } from './container.ts';
import { TraceError } from './errors.ts';
import { processOf, type ImageProcess } from './image-process.ts';
import { TraceRecorder } from './recorder.ts';
import { untilAnswer } from './until-answer.ts';

/** What a recording uses. */
export interface RecordComponents {
  readonly codec: Codec;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What is run, and how long. */
export interface RecordOptions extends ProgressOptions {
  readonly signal: AbortSignal;
  /** Empty: what the image runs by itself. */
  readonly command: readonly string[];
  readonly runtime: Runtime;
  /** After this time the command is stopped. */
  readonly timeoutMs: number | undefined;
  /** Once this URL answers the command is stopped. */
  readonly untilUrl: string | undefined;
}

/** Why the recording ended. */
type RecordEnd = 'exit' | 'timeout' | 'answer';

/** What a command read. */
export interface Recording {
  readonly accesses: readonly TraceAccess[];
  /** Bytes that it read after as many accesses as a mount follows. */
  readonly droppedBytes: number;
  readonly command: readonly string[];
  readonly endedBy: RecordEnd;
  /** Of the command, when it ended by itself. */
  readonly exitCode: number | undefined;
  readonly seconds: number;
}

/**
 * Runs a command of a block image on a fresh mount of it, and records what it reads of the layers,
 * the mount itself included. Needs root, and runs in namespaces of its own (`runIsolated()`).
 * `folder` is an empty one. Nothing is left running or mounted. Throws TraceError, DeviceError, the
 * errors of the layers, or the signal's reason.
 */
export async function recordTrace(
  components: RecordComponents,
  image: BlockImage & { readonly layers: CheckedLayers },
  folder: string,
  options: RecordOptions,
): Promise<Recording> {
  const { signal } = options;
  const what = processOf(await readConfig(image, signal), options.command);
  if (what === undefined) {
    const text = `${image.place.name} names no command: write one after --`;
    throw new TraceError(text, { code: 'command', exitCode: 0 });
  }
  const recorder = new TraceRecorder({ accessesMax: MOUNT_ACCESSES_MAX });
  const scratch = join(folder, 'scratch');
  await mkdir(scratch);
  // In memory: any file system may be below, and an overlay takes few as its upper one.
  const failure = mount({ source: 'xylem', target: scratch }, 'tmpfs', {
    flags: MS_NOSUID | MS_NODEV,
    data: 'mode=700',
  });
  if (failure !== undefined) {
    const text = `mounting a tmpfs at ${scratch} failed with ${failure.name}`;
    throw new TraceError(text, { code: 'failed', step: 'tmpfs' });
  }
  try {
    return await onDevice(components, { image, scratch, recorder, what }, options);
  } finally {
    unmount(scratch, MNT_DETACH);
  }
}

interface Prepared {
  readonly image: BlockImage & { readonly layers: CheckedLayers };
  readonly scratch: string;
  readonly recorder: TraceRecorder;
  readonly what: ImageProcess;
}

/** Mounts the image for the time of the command. */
async function onDevice(
  components: RecordComponents,
  prepared: Prepared,
  options: RecordOptions,
): Promise<Recording> {
  const { image, scratch, recorder } = prepared;
  const service = new DeviceService(
    { ...components, metrics: silentMetrics, reader: image.layers },
    {
      stateDir: join(scratch, 'state'),
      mountFolders: [scratch],
      onRead: (segments) => recorder.add(segments),
    },
  );
  const lower = join(scratch, 'lower');
  try {
    await service.start();
    const { place, stored, manifest } = image;
    const origin = { registry: '', repository: '' };
    const resolved = { reference: place.name, digest: stored.digest, manifest, origin };
    await orAbort(service.mount(resolved, lower), options.signal);
    return await run(components, { ...prepared, lower }, options);
  } finally {
    await service.stop();
  }
}

async function run(
  { clock }: RecordComponents,
  { scratch, recorder, what, lower }: Prepared & { readonly lower: string },
  { runtime, timeoutMs, untilUrl, signal }: RecordOptions,
): Promise<Recording> {
  const folder = join(scratch, 'command');
  await mkdir(folder);
  // The folder of the recording has a name of its own.
  const place = { folder, name: basename(dirname(scratch)) };
  const startMs = clock.nowMs();
  const container = await Container.start({ clock }, { lower, place, runtime, process: what });
  try {
    const ended = await endOf({ clock, container }, { timeoutMs, untilUrl, signal });
    recorder.stop();
    const { accesses, droppedBytes } = recorder;
    const seconds = (clock.nowMs() - startMs) / 1000;
    return { accesses, droppedBytes, command: what.args, ...ended, seconds };
  } finally {
    recorder.stop();
    await container.stop();
  }
}

/** Waits for what comes first: the end of the command, the answer, the deadline, or the signal. */
async function endOf(
  { clock, container }: { readonly clock: Clock; readonly container: Container },
  { timeoutMs, untilUrl, signal }: Pick<RecordOptions, 'timeoutMs' | 'untilUrl' | 'signal'>,
): Promise<{ readonly endedBy: RecordEnd; readonly exitCode: number | undefined }> {
  const left = new AbortController();
  const time = timeoutMs === undefined ? undefined : deadline(clock, timeoutMs);
  const exited = container.ended.then((exitCode) => ({ endedBy: 'exit', exitCode }) as const);
  const waits: Promise<{ endedBy: RecordEnd; exitCode: number | undefined }>[] = [exited];
  if (untilUrl !== undefined) {
    const answered = untilAnswer({ clock }, untilUrl, AbortSignal.any([signal, left.signal]));
    waits.push(answered.then(() => ({ endedBy: 'answer', exitCode: undefined })));
  }
  if (time !== undefined) {
    const passed = Promise.withResolvers<{ endedBy: RecordEnd; exitCode: undefined }>();
    const end = { endedBy: 'timeout', exitCode: undefined } as const;
    time.signal.addEventListener('abort', () => passed.resolve(end));
    waits.push(passed.promise);
  }
  for (const wait of waits) wait.catch(() => {});
  try {
    const end = await orAbort(Promise.race(waits), signal);
    if (untilUrl === undefined || end.endedBy === 'answer') return end;
    const why =
      end.endedBy === 'timeout'
        ? 'within the time'
        : `before the command ended with the exit code ${end.exitCode}`;
    const text = `${untilUrl} did not answer ${why}`;
    throw new TraceError(text, { code: 'no-answer', url: untilUrl });
  } finally {
    time?.clear();
    left.abort(new Error('nobody waits for the answer'));
  }
}
