import { blockCount, type BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { isForeign, parseManifest } from '../image/manifest.ts';
import type { Clock } from '../runtime/clock.ts';
import { within } from '../runtime/deadline.ts';
import type { Logger } from '../runtime/logger.ts';
import type { ResolveReply } from '../tree/messages.ts';
import { CodedError, errorText } from '../util/errors.ts';
import { Limiter } from '../util/limiter.ts';
import type { PeerId } from '../util/peer-id.ts';
import {
  isFinal,
  PreheatError,
  reasonOf,
  preheatNumber,
  type HostPreheatReply,
  type HostPreheatRequest,
  type HostProgress,
  type MissingBlob,
  type PreheatFailure,
  type PreheatHost,
  type PreheatJob,
  type PreheatOrder,
  type PreheatSpec,
  type PreheatState,
  type PreheatTransport,
  type StuckBlock,
} from './messages.ts';
import type { LocatedBlob } from '../transfer/contracts/blob-reader.ts';
import { OriginError, type OriginErrorDetail } from '../transfer/contracts/origin.ts';
import { PeerError } from '../transfer/contracts/transport.ts';

/**
 * Maximum number of preheats that a root leads at a time: each host brings in one image after the
 * other anyway.
 */
const JOBS_RUNNING_MAX = 8;

/** Maximum number of finished preheats whose end is remembered. */
const JOBS_FINISHED_MAX = 64;

/** Longest preheat: 6 h, a terabyte at 50 MB/s. */
const JOB_MS_MAX = 6 * 3_600_000;

/**
 * Maximum number of calls to hosts in flight, over all jobs. Each call takes 1.5 ms of CPU here and
 * may carry a manifest.
 */
const CALLS_RUNNING_MAX = 32;
const CALLS_WAITING_MAX = 65_536;

/**
 * Longest wait for a host's answer. The host answers from memory, but detecting a dead connection
 * takes time.
 */
const CALL_MS_MAX = 5_000;

/**
 * Interval between status calls to the hosts: a quarter of the time since the start, so that the
 * end is noticed in time, whatever it took, and within these bounds; but 10 ms for each host at
 * least, so that a thousand hosts cost 15 % of a CPU.
 */
const LOOK_MS_MIN = 25;
const LOOK_MS_MAX = 1_000;
const LOOK_SHARE = 0.25;
const LOOK_MS_PER_HOST = 10;

/**
 * Longest wait for the registry to say why a block does not come, and pause before the next. Long,
 * since a cache that fetches a blob first begins anew for each request.
 */
const PROBE_MS_MAX = 120_000;
const PROBE_PAUSE_MS = 2_000;

/**
 * A registry that fails is waited for this long: tries of all hosts at all blocks of a blob are
 * few, since the roots share them. (tunable)
 */
const FAILING_MS_MAX = 30_000;

/**
 * Of the registry client: the registry answers that it cannot, or not at all, or breaks off and
 * brings nothing more.
 */
const FAILURES: ReadonlySet<string> = new Set(['unavailable', 'rate-limited', 'protocol']);

/** Status calls in a row that a host may leave unanswered: a restart of its agent takes less. */
const MISSES_MAX = 5;

/** Reads a block at the registry, to hear what it says. Rejects with OriginError. */
export type PreheatProbe = (
  located: LocatedBlob,
  index: BlockIndex,
  signal: AbortSignal,
) => Promise<void>;

interface Components {
  readonly transport: PreheatTransport;
  /** Finds the manifest of an image. Rejects with OriginError. */
  readonly resolve: (reference: string) => Promise<ResolveReply>;
  readonly probe: PreheatProbe;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface HostEntry {
  readonly peer: PeerId;
  readonly zone: string;
  progress: HostProgress;
  misses: number;
}

interface Job {
  readonly id: string;
  readonly spec: PreheatSpec;
  readonly startedMs: number;
  readonly abort: AbortController;
  state: PreheatState;
  failure?: PreheatFailure;
  reason?: string;
  /** Set while the job runs: a manifest may have 4 MiB. */
  order?: PreheatOrder;
  readonly missing: Map<Digest, MissingBlob>;
  /** When the registry was last asked about a blob that does not come. */
  readonly probedMs: Map<Digest, number>;
  probing?: Promise<void> | undefined;
  /** Since when the registry fails, by blob. */
  readonly failingMs: Map<Digest, number>;
  /** What ends the job, as the registry says. */
  no?: JobError;
  digest?: Digest;
  finishedMs?: number;
  hosts: readonly HostEntry[];
}

/** A job did not bring the image to its hosts. */
class JobError extends CodedError<{ readonly code: PreheatFailure }> {}

/**
 * Leads preheats from a root: finds the manifest once, asks the connected hosts for their zones,
 * chooses hosts and starts the preheat on them. Then polls each host until it is done, has failed,
 * or no longer answers.
 *
 * Life: constructed -> used -> `stop()`: jobs end as failed here; the hosts finish on their own.
 */
export class PreheatJobs {
  readonly #components: Components;
  readonly #calls = new Limiter({ runningMax: CALLS_RUNNING_MAX, waitingMax: CALLS_WAITING_MAX });
  /** In arrival order. */
  readonly #jobs = new Map<string, Job>();
  readonly #running = new Set<Promise<void>>();

  constructor(components: Components) {
    this.#components = components;
  }

  /** Starts a preheat, unless this id is known. Throws PreheatError `full`. */
  start(id: string, spec: PreheatSpec): PreheatJob {
    const known = this.#jobs.get(id);
    if (known !== undefined) return viewOf(known);
    if (this.#running.size >= JOBS_RUNNING_MAX) {
      throw new PreheatError(
        `${JOBS_RUNNING_MAX} preheats are in progress, the maximum: try again later`,
        {
          code: 'full',
        },
      );
    }
    const startedMs = this.#components.clock.wallMs();
    const abort = new AbortController();
    const job: Job = {
      id,
      spec,
      startedMs,
      abort,
      state: 'waiting',
      hosts: [],
      missing: new Map(),
      probedMs: new Map(),
      failingMs: new Map(),
    };
    this.#jobs.set(id, job);
    const running = this.#lead(job).finally(() => this.#running.delete(running));
    this.#running.add(running);
    return viewOf(job);
  }

  /** Throws PreheatError `not-found`. */
  get(id: string): PreheatJob {
    return viewOf(this.#job(id));
  }

  /**
   * Cancels a preheat on every host; blocks already fetched stay there. Throws PreheatError
   * `not-found`.
   */
  cancel(id: string): PreheatJob {
    const job = this.#job(id);
    this.#end(job, 'cancelled');
    return viewOf(job);
  }

  async stop(): Promise<void> {
    for (const job of this.#jobs.values()) this.#end(job, 'failed', 'stopped');
    await Promise.all(this.#running);
  }

  #job(id: string): Job {
    const job =
      this.#jobs.get(id) ??
      [...this.#jobs.values()].find((each) => String(preheatNumber(each.id)) === id);
    if (job !== undefined) return job;
    throw new PreheatError(`this root knows no preheat ${id}, or no longer`, { code: 'not-found' });
  }

  async #lead(job: Job): Promise<void> {
    const { clock, logger } = this.#components;
    const { reference } = job.spec;
    const timer = clock.setTimer(JOB_MS_MAX, () => this.#end(job, 'failed', 'timeout'));
    try {
      await this.#run(job);
      const failed = job.hosts.filter(({ progress }) => progress.state !== 'done');
      const isMissing = failed.every(({ progress }) => progress.failure === 'missing');
      const reason = failed
        .map(({ progress }) => progress.reason)
        .find((each) => each !== undefined);
      if (failed.length === 0) this.#end(job, 'done');
      else this.#end(job, 'failed', isMissing ? 'missing' : 'hosts', reason);
    } catch (error) {
      if (!isFinal(job.state))
        logger.warn({ reference, error: errorText(error) }, 'preheat failed');
      const code = error instanceof JobError ? error.code : 'unavailable';
      this.#end(job, 'failed', code, reasonOf(error));
      this.#tellEnd(job);
    } finally {
      timer.cancel();
      delete job.order;
      this.#forgetOldest();
    }
    const { id, state, failure } = job;
    logger.info({ id, reference, state, failure, hosts: job.hosts.length }, 'preheat ended');
  }

  async #run(job: Job): Promise<void> {
    const { signal } = job.abort;
    job.order = await this.#order(job.spec);
    job.digest = job.order.digest;
    signal.throwIfAborted();
    job.hosts = choose(await this.#hosts(job.spec, signal), job.spec);
    if (job.hosts.length === 0) {
      throw new JobError('no connected host matches', { code: 'no-hosts' });
    }
    job.state = 'running';
    const { clock } = this.#components;
    const startMs = clock.nowMs();
    for (;;) {
      const open = job.hosts.filter(({ progress }) => !isFinal(progress.state));
      await Promise.all(open.map((host) => this.#look(job, host)));
      signal.throwIfAborted();
      const left = job.hosts.filter(({ progress }) => !isFinal(progress.state));
      if (left.length === 0) return;
      const probing = this.#probe(job, left);
      const shareMs = Math.round((clock.nowMs() - startMs) * LOOK_SHARE);
      const pauseMs = Math.min(LOOK_MS_MAX, Math.max(LOOK_MS_MIN, shareMs));
      const pause = clock.sleep(Math.max(pauseMs, left.length * LOOK_MS_PER_HOST), signal);
      await (probing === undefined ? pause : Promise.race([pause, probing]));
      if (job.no !== undefined) throw job.no;
    }
  }

  /**
   * Finds out, beside the job, why a block comes to none of the hosts that say so. What the
   * registry has not got, they do without; any other definite no ends the job, and so does a
   * registry that goes on failing. Undefined when there is nothing to find out.
   */
  #probe(job: Job, hosts: readonly HostEntry[]): Promise<void> | undefined {
    if (job.probing !== undefined) return job.probing;
    const { order } = job;
    const stuck = hosts
      .map(({ progress }) => progress.stuck)
      .find((each) => this.#isNews(job, each));
    if (stuck === undefined || order === undefined) return undefined;
    const { digest, index } = stuck;
    const named = parseManifest(order.manifest);
    const found = [named.config, ...named.layers].find((each) => each.digest === digest);
    if (found === undefined || !isBlockOf(found.size, index)) return undefined;
    const located = { blob: { digest, sizeBytes: found.size }, origin: order.origin };
    const missing = { digest, isForeign: isForeign(found) };
    job.probing = this.#ask(job, located, index, missing).finally(() => {
      job.probing = undefined;
      job.probedMs.set(digest, this.#components.clock.nowMs());
    });
    return job.probing;
  }

  /** Never rejects. */
  async #ask(
    job: Job,
    located: LocatedBlob,
    index: BlockIndex,
    missing: MissingBlob,
  ): Promise<void> {
    const { clock, probe } = this.#components;
    const { digest } = missing;
    const { signal } = job.abort;
    try {
      await within(clock, PROBE_MS_MAX, (limit) => probe(located, index, limit), { signal });
      job.failingMs.delete(digest);
    } catch (cause) {
      if (signal.aborted || !(cause instanceof OriginError)) return;
      if (cause.code === 'not-found') return void job.missing.set(digest, missing);
      if (cause.code === 'unavailable' && !this.#failsOn(job, digest, cause)) return;
      const code = failureOf(cause.code);
      job.no = new JobError(errorText(cause), { code }, { cause });
    }
  }

  /** Whether the registry has failed for too long; silence is waited for by the hosts. */
  #failsOn(job: Job, digest: Digest, { cause }: OriginError): boolean {
    const isFailure = cause instanceof CodedError && FAILURES.has(cause.code);
    if (!isFailure) return false;
    const nowMs = this.#components.clock.nowMs();
    const sinceMs = job.failingMs.get(digest) ?? nowMs;
    job.failingMs.set(digest, sinceMs);
    return nowMs - sinceMs >= FAILING_MS_MAX;
  }

  #isNews({ missing, probedMs }: Job, stuck: StuckBlock | undefined): boolean {
    if (stuck === undefined || missing.has(stuck.digest)) return false;
    const lastMs = probedMs.get(stuck.digest) ?? Number.NEGATIVE_INFINITY;
    return this.#components.clock.nowMs() - lastMs >= PROBE_PAUSE_MS;
  }

  async #order(spec: PreheatSpec): Promise<PreheatOrder> {
    try {
      const { manifestDigest, manifest, origin } = await this.#components.resolve(spec.reference);
      const { reference, part, pin } = spec;
      return { reference, digest: manifestDigest, manifest, origin, part, pin };
    } catch (cause) {
      const found = cause instanceof CodedError ? cause.code : '';
      const code = found === 'not-found' || found === 'refused' ? found : 'unavailable';
      throw new JobError(errorText(cause), { code }, { cause });
    }
  }

  /**
   * The connected hosts that may receive a preheat. Roots and relays refuse: they keep the blocks
   * that pass through them. A host that does not answer has no zone to choose it by; it counts as
   * missing when the preheat is for all hosts.
   */
  async #hosts({ zone, count }: PreheatSpec, signal: AbortSignal): Promise<readonly HostEntry[]> {
    const areAllMeant = zone === undefined && count === undefined;
    const asked = this.#components.transport.peers().map(async (peer) => {
      const progress = { state: 'waiting', doneBytes: 0, totalBytes: 0 } as const;
      try {
        const reply = await this.#call(peer, { action: 'ask' }, signal);
        return { peer, zone: reply.zone, progress, misses: 0 };
      } catch (error) {
        const isHost = !(error instanceof PeerError && error.code === 'refused');
        return isHost && areAllMeant ? { peer, zone: '', progress, misses: 0 } : undefined;
      }
    });
    return (await Promise.all(asked)).filter((host) => host !== undefined);
  }

  /** Asks a host for its progress; starts the preheat on a host that does not know it (yet). */
  async #look(job: Job, host: HostEntry): Promise<void> {
    const { id, order } = job;
    const { signal } = job.abort;
    try {
      const missing = [...job.missing.keys()];
      let reply = await this.#call(host.peer, { action: 'status', id, missing }, signal);
      if (reply.progress === undefined && order !== undefined) {
        reply = await this.#call(host.peer, { action: 'start', id, order }, signal);
      }
      // The agent is about to restart. It then knows nothing of the preheat, so the next call
      // starts it anew.
      if (reply.progress?.failure === 'stopped') throw new Error("the host's agent is stopping");
      host.misses = 0;
      if (reply.progress !== undefined) host.progress = reply.progress;
    } catch (error) {
      if (signal.aborted) return;
      this.#components.logger.debug({ peer: host.peer, error: errorText(error) }, 'no answer');
      if (++host.misses < MISSES_MAX) return;
      host.progress = { ...host.progress, state: 'failed', failure: 'lost' };
    }
  }

  /** Notifies the hosts of a job that was cancelled or failed, as far as they are reachable. */
  #tellEnd(job: Job): void {
    const limit = new AbortController().signal;
    for (const host of job.hosts) {
      if (isFinal(host.progress.state)) continue;
      host.progress = { ...host.progress, state: 'cancelled' };
      if (job.failure === 'stopped') continue;
      this.#call(host.peer, { action: 'cancel', id: job.id }, limit).catch(() => {});
    }
  }

  async #call(
    peer: PeerId,
    request: HostPreheatRequest,
    signal: AbortSignal,
  ): Promise<HostPreheatReply> {
    const { transport, clock } = this.#components;
    const call = (limit: AbortSignal): Promise<HostPreheatReply> =>
      transport.call({ peer, addresses: [] }, 'host-preheat', request, limit);
    const reply = this.#calls.run(() => within(clock, CALL_MS_MAX, call, { signal }));
    if (reply === undefined)
      throw new PreheatError(`${CALLS_WAITING_MAX} calls are waiting, the maximum`, {
        code: 'full',
      });
    return reply;
  }

  /** The first end counts. */
  #end(job: Job, state: PreheatState, failure?: PreheatFailure, reason?: string): void {
    if (isFinal(job.state)) return;
    if (reason !== undefined) job.reason = reason;
    job.state = state;
    job.finishedMs = this.#components.clock.wallMs();
    if (failure !== undefined) job.failure = failure;
    job.abort.abort(new Error(`the preheat is ${state}`));
  }

  #forgetOldest(): void {
    const finished = [...this.#jobs.values()].filter(({ state }) => isFinal(state));
    for (const { id } of finished.slice(0, Math.max(0, finished.length - JOBS_FINISHED_MAX))) {
      this.#jobs.delete(id);
    }
  }
}

/**
 * Chooses the hosts of one zone or of all zones, at most `count` of them, from each zone in turn.
 */
function choose(hosts: readonly HostEntry[], { zone, count }: PreheatSpec): readonly HostEntry[] {
  const sorted = [...hosts].sort((a, b) => (a.peer < b.peer ? -1 : 1));
  const meant = sorted.filter((host) => zone === undefined || host.zone === zone);
  if (count === undefined) return meant;
  const seen = new Map<string, number>();
  const ranked = meant.map((host) => {
    const rank = seen.get(host.zone) ?? 0;
    seen.set(host.zone, rank + 1);
    return { host, rank };
  });
  // Sorting keeps the order of equals.
  return ranked
    .sort((a, b) => a.rank - b.rank)
    .slice(0, count)
    .map(({ host }) => host);
}

/** A host names it, and a root reads only what there is. */
function failureOf(code: OriginErrorDetail['code']): PreheatFailure {
  if (code === 'limited') return 'unavailable';
  return code === 'bad-content' ? 'protocol' : code;
}

function isBlockOf(sizeBytes: number, index: BlockIndex): boolean {
  return index < blockCount(sizeBytes);
}

function viewOf(job: Job): PreheatJob {
  const { id, spec, state, failure, reason, digest, startedMs, finishedMs } = job;
  const hosts = job.hosts.map(({ peer, zone, progress }): PreheatHost => {
    const { reason: _reason, stuck: _stuck, ...shown } = progress;
    return { peer, zone, ...shown };
  });
  return {
    id,
    spec,
    state,
    ...(failure !== undefined && { failure }),
    ...(reason !== undefined && { reason }),
    missing: [...job.missing.values()],
    ...(digest !== undefined && { digest }),
    startedMs,
    ...(finishedMs !== undefined && { finishedMs }),
    hosts,
  };
}
