import type { Digest } from '../image/digest.ts';
import { parseReference } from '../registry/reference.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import { defined } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import { Limiter } from '../util/limiter.ts';
import { failureOf } from './failures.ts';
import {
  ACCELERATION_STATES,
  AccelerationError,
  type AcceleratedImage,
  type AccelerationApi,
  type AccelerationProgress,
  type AccelerationType,
  type Belonging,
  type BlockImage,
  type Conversion,
  type Kept,
  type MadeManifest,
  type ReadyVersion,
} from './messages.ts';
import { Belongings, type Collected, type Needs } from './belongings.ts';
import { accelerationMetrics, type AccelerationMetrics } from './metrics.ts';
import { StateFile } from './state-file.ts';
import {
  AccelerationStates,
  IMAGES_MAX,
  repositoryOf,
  type Effect,
  type Look,
  type Outcome,
} from './states.ts';

/** Longest sleep; a clock that was set is noticed after it. (tunable) */
const SLEEP_MS_MAX = 60_000;

/** What is done for an image. Everything rejects with errors that say why, or with the signal's. */
export interface AccelerationWork {
  /** What the tag stands for at the registry, and whether what was made of that is there. */
  look(image: string, ready: ReadyVersion | undefined, signal: AbortSignal): Promise<Look>;
  /** Makes block images of this version, and lists them among its referrers. */
  convert(image: string, sourceDigest: Digest, options: ConvertOptions): Promise<Conversion>;
  /** Takes block images out of the lists of referrers. */
  remove(image: string, images: readonly BlockImage[], signal: AbortSignal): Promise<void>;
  /** Removes what this root has put into one repository, as far as nobody refers to it. */
  collect(belongings: readonly Belonging[], signal: AbortSignal): Promise<Collected>;
}

/** What a conversion is given. */
export interface ConvertOptions {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: AccelerationProgress) => void;
  /** Called with each manifest that was made, also where the conversion fails later. */
  readonly onMade: (made: MadeManifest) => void;
}

interface Components {
  readonly work: AccelerationWork;
  /** That of the store. */
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/**
 * Accelerates images on a root: carries out what AccelerationStates decides, and keeps its records.
 *
 * Life: constructed -> `start()`, once the store has started -> used -> `stop()`, before it stops:
 * what is in flight is broken off, and begins anew with the next start.
 */
export class AccelerationService implements AccelerationApi {
  readonly #parts: Components;
  readonly #states: AccelerationStates;
  readonly #belongings: Belongings;
  readonly #file: StateFile;
  readonly #metrics: AccelerationMetrics;
  /** One that was broken off still counts until it has ended. */
  readonly #conversions: Limiter;
  readonly #underWay = new Map<number, AbortController>();
  readonly #tasks = new Set<Promise<void>>();
  #collecting: AbortController | undefined;
  #timer: Timer | undefined;
  #saving: Promise<void> = Promise.resolve();
  #isSaveQueued = false;
  #isStopped = false;

  constructor(
    components: Components,
    init: { readonly concurrent: number; readonly watchMs: number; readonly keepMs: number },
  ) {
    this.#parts = components;
    this.#states = new AccelerationStates(components, init);
    this.#belongings = new Belongings(init, components.clock.wallMs());
    this.#file = new StateFile(components);
    this.#metrics = accelerationMetrics(components.metrics);
    const limits = { runningMax: init.concurrent, waitingMax: IMAGES_MAX };
    this.#conversions = new Limiter(limits);
  }

  async start(): Promise<void> {
    const { images, belongings } = await this.#file.read();
    this.#belongings.load(belongings);
    this.#measureKept();
    this.#carryOut(this.#states.load(images, this.#parts.clock.wallMs()));
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#timer?.cancel();
    for (const controller of this.#underWay.values()) controller.abort(new Error('stopping'));
    this.#collecting?.abort(new Error('stopping'));
    await Promise.all(this.#tasks);
    await this.#saving.catch(() => {});
  }

  async set(text: string, type: AccelerationType): Promise<AcceleratedImage> {
    const { registry, repository, tag, digest } = parseReference(text);
    if (tag === undefined || digest !== undefined) {
      const what = `${text} names no tag alone: a request by digest always gets the original`;
      throw new AccelerationError(what, { code: 'not-a-tag' });
    }
    const image = `${registry}/${repository}:${tag}`;
    const nowMs = this.#parts.clock.wallMs();
    const before = this.#states.get(image);
    this.#belongings.changed();
    const effects =
      type === 'Default' ? this.#states.accelerate(image, nowMs) : this.#states.stop(image, nowMs);
    this.#carryOut(effects);
    const view = this.#states.get(image) ?? before ?? neverAsked(image, nowMs);
    await this.#saved();
    return { ...view, accelerationType: type };
  }

  list(): readonly AcceleratedImage[] {
    return this.#states.list();
  }

  kept(repository: string | undefined): Kept {
    return this.#belongings.list(repository);
  }

  /** Whether nobody is to be given this block image, also while its registry still lists it. */
  isRemoved(digest: Digest): boolean {
    return this.#states.isRemoved(digest);
  }

  #carryOut(effects: readonly Effect[]): void {
    if (this.#isStopped) return;
    for (const effect of effects) {
      if (effect.kind === 'save') this.#save();
      else if (effect.kind === 'cancel') {
        this.#underWay.get(effect.turn)?.abort(new Error('no longer wanted'));
      } else this.#begin(effect);
    }
    this.#collect();
    this.#measure();
    this.#timer?.cancel();
    const due = [this.#states.nextMs(), this.#belongings.nextMs()];
    const nextMs = Math.min(...due.map((ms) => ms ?? Infinity));
    if (nextMs === Infinity) return;
    const { clock } = this.#parts;
    const delayMs = Math.min(SLEEP_MS_MAX, Math.max(0, nextMs - clock.wallMs()));
    this.#timer = clock.setTimer(delayMs, () => {
      this.#carryOut(this.#states.advance(clock.wallMs()));
    });
  }

  #begin(effect: Exclude<Effect, { kind: 'save' | 'cancel' }>): void {
    const controller = new AbortController();
    this.#underWay.set(effect.turn, controller);
    const task = this.#run(effect, controller.signal).finally(() => {
      this.#underWay.delete(effect.turn);
      this.#tasks.delete(task);
    });
    this.#tasks.add(task);
  }

  /** Begins to remove what nothing has needed for long enough. */
  #collect(): void {
    const nowMs = this.#parts.clock.wallMs();
    const needs = (): Needs => this.#states.needs();
    if (this.#belongings.sweep(needs, nowMs)) this.#save();
    const belongings = this.#belongings.begin(needs, nowMs);
    if (belongings === undefined) return;
    const controller = new AbortController();
    this.#collecting = controller;
    const task = this.#remove(belongings, controller.signal).finally(() => {
      this.#tasks.delete(task);
    });
    this.#tasks.add(task);
  }

  /** Never rejects. */
  async #remove(belongings: readonly Belonging[], signal: AbortSignal): Promise<void> {
    const { work, clock, logger } = this.#parts;
    const repository = belongings[0]?.repository;
    const end = await outcomeOf(work.collect(belongings, signal));
    if (this.#isStopped) return;
    const found = end.outcome === 'done' ? end.value : undefined;
    if (end.outcome === 'failed') {
      logger.warn({ repository, ...end.failure }, 'unused block images were not removed');
    }
    if (found?.refused !== undefined) {
      const fields = { repository, reason: found.refused };
      logger.warn(fields, 'the registry lets nothing be removed; unused block images stay there');
    }
    if (found !== undefined && found.gone.length > 0) {
      this.#metrics.collected.inc({}, found.gone.length);
      logger.info({ repository, manifests: found.gone.length }, 'unused block images are removed');
    }
    this.#belongings.ended(belongings, found, clock.wallMs());
    this.#measureKept();
    this.#save();
    this.#carryOut([]);
  }

  /** Never rejects. */
  async #run(
    effect: Exclude<Effect, { kind: 'save' | 'cancel' }>,
    signal: AbortSignal,
  ): Promise<void> {
    const { work, clock } = this.#parts;
    const states = this.#states;
    const { image, turn } = effect;
    if (effect.kind === 'look') {
      const found = await outcomeOf(work.look(image, effect.ready, signal));
      if (this.#isStopped) return;
      this.#carryOut(states.looked(image, turn, found, clock.wallMs()));
    } else if (effect.kind === 'remove') {
      const end = await outcomeOf(work.remove(image, effect.images, signal));
      if (this.#isStopped) return;
      this.#tell(image, 'block images are no longer listed', end);
      this.#carryOut(states.removed(image, turn, end, clock.wallMs()));
    } else {
      const made = await outcomeOf(this.#convert(effect, signal));
      if (this.#isStopped) return;
      if (!signal.aborted) this.#tell(image, 'block images are ready', made);
      this.#belongings.changed();
      this.#carryOut(states.converted(image, turn, made, clock.wallMs()));
    }
  }

  #convert(
    { image, turn, sourceDigest }: Extract<Effect, { kind: 'convert' }>,
    signal: AbortSignal,
  ): Promise<Conversion> {
    const { work, clock } = this.#parts;
    const onMade = (made: MadeManifest): void => {
      if (!this.#belongings.add(repositoryOf(image), made)) return;
      this.#measureKept();
      this.#save();
    };
    const onProgress = (progress: AccelerationProgress): void =>
      this.#states.progressed(image, turn, progress);
    const task = async (): Promise<Conversion> => {
      const startedMs = clock.nowMs();
      let result = 'ready';
      try {
        return await work.convert(image, sourceDigest, { signal, onProgress, onMade });
      } catch (error) {
        result = failureOf(error).kind;
        throw error;
      } finally {
        if (!signal.aborted) {
          this.#metrics.conversions.inc({ result });
          this.#metrics.seconds.observe({}, (clock.nowMs() - startedMs) / 1000);
        }
      }
    };
    return defined(this.#conversions.run(task, signal), 'no more wait than there are images');
  }

  #tell(image: string, done: string, end: Outcome<unknown>): void {
    const { logger } = this.#parts;
    if (end.outcome === 'done') logger.info({ image }, done);
    else logger.warn({ image, ...end.failure }, 'acceleration failed; it is tried again');
  }

  #measure(): void {
    const { images, running } = this.#metrics;
    const list = this.#states.list();
    for (const state of ACCELERATION_STATES) {
      images.set({ state }, list.filter((each) => each.state === state).length);
    }
    running.set({}, this.#states.running);
  }

  #measureKept(): void {
    this.#metrics.kept.set({}, this.kept(undefined).sizeBytes);
  }

  /** Several changes at a time are one write. */
  #save(): void {
    if (this.#isSaveQueued) return;
    this.#isSaveQueued = true;
    const saved = this.#saving
      .catch(() => {})
      .then(() => {
        this.#isSaveQueued = false;
        const images = this.#states.records();
        return this.#file.write({ images, belongings: this.#belongings.records() });
      });
    saved.catch((error: unknown) => {
      const fields = { error: errorText(error) };
      this.#parts.logger.error(fields, 'which images are accelerated was not kept');
    });
    this.#saving = saved;
  }

  async #saved(): Promise<void> {
    try {
      await this.#saving;
    } catch (cause) {
      const what = `it has begun, but a restart would forget it: ${errorText(cause)}`;
      throw new AccelerationError(what, { code: 'not-kept' }, { cause });
    }
  }
}

async function outcomeOf<T>(task: Promise<T>): Promise<Outcome<T>> {
  try {
    return { outcome: 'done', value: await task };
  } catch (error) {
    return { outcome: 'failed', failure: failureOf(error) };
  }
}

/** What is told of an image that nothing was ever made of. */
function neverAsked(image: string, nowMs: number): AcceleratedImage {
  const state = 'Preparing';
  return { image, accelerationType: 'None', state, failures: 0, requestedMs: nowMs };
}
