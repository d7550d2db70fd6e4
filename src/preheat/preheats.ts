import type { BlockStore } from '../blockstore/store.ts';
import { BLOCK_SIZE_BYTES } from '../image/block.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Random } from '../runtime/random.ts';
import type { TransferEngine } from '../transfer/drive/engine.ts';
import { HostPreheats } from './host-preheats.ts';
import { PreheatJobs, type PreheatProbe } from './jobs.ts';
import {
  PREHEAT_ID,
  PreheatError,
  type HostPreheatReply,
  type HostPreheatRequest,
  type HostProgress,
  type PreheatCalls,
  type PreheatJob,
  type PreheatRequest,
  type PreheatSpec,
  type PreheatTransport,
  type PreheatService,
} from './messages.ts';
import { NobodyError, type AskRoots } from '../transfer/drive/ask-roots.ts';
import type { Handlers } from '../transfer/contracts/calls.ts';
import type { Origin } from '../transfer/contracts/origin.ts';
import { PeerError } from '../transfer/contracts/transport.ts';
import type { AgentRole, HostAddress } from '../tree/messages.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { toHex } from '../util/bytes.ts';
import { errorText } from '../util/errors.ts';
import type { PeerId } from '../util/peer-id.ts';
import { Scatter } from '../util/scatter.ts';

/** As PREHEAT_ID has them. */
const ID_BYTES = 16;

/** Longest wait for a root's answer, in milliseconds; a root answers from memory. */
const CALL_MS_MAX = 5_000;

/**
 * Maximum number of preheats begun here whose leading root is remembered; for others every root is
 * asked.
 */
const LEADERS_MAX = 256;

interface Components {
  readonly transport: PreheatTransport & { readonly self: PeerId };
  readonly engine: TransferEngine;
  readonly origin: Pick<Origin, 'readInto'>;
  readonly askRoots: AskRoots;
  readonly store: BlockStore;
  readonly codec: Codec;
  readonly hash: Hash;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/**
 * Preheats in this agent: asks a root to lead one, leads them when this agent is a root, and brings
 * images in when a root says so.
 *
 * Life: constructed -> `setRoots()` whenever they change -> used -> `stop()`.
 */
export class ClusterPreheats implements PreheatService {
  readonly #components: Components;
  readonly #zone: string;
  readonly #isHost: boolean;
  /** On a root. */
  readonly #jobs: PreheatJobs | undefined;
  readonly #host: HostPreheats;
  readonly #leaders = new BoundedMap<string, HostAddress>({ entriesMax: LEADERS_MAX });
  #roots: readonly HostAddress[] = [];

  constructor(
    components: Components,
    init: { readonly role: AgentRole; readonly zone: string; readonly quotaBytes: number },
  ) {
    this.#components = components;
    this.#zone = init.zone;
    this.#isHost = init.role === 'child';
    const { engine } = components;
    const resolve = (reference: string) => engine.tree.manifestOf(reference);
    const probe = probeOf(components.origin);
    this.#jobs =
      init.role === 'root' ? new PreheatJobs({ ...components, resolve, probe }) : undefined;
    this.#host = new HostPreheats(components, { quotaBytes: init.quotaBytes });
  }

  /** What the transport calls when peers ask. */
  get handlers(): Handlers<PreheatCalls> {
    const jobs = this.#jobs;
    return {
      ...(jobs !== undefined && {
        preheat: async (peer: PeerId, request: PreheatRequest) =>
          this.#onPreheat(jobs, peer, request),
      }),
      'host-preheat': async (peer, request) => this.#onHostPreheat(peer, request),
    };
  }

  setRoots(roots: readonly HostAddress[]): void {
    this.#roots = roots;
  }

  async start(spec: PreheatSpec): Promise<PreheatJob> {
    if (spec.pin && this.#jobs === undefined) {
      throw new PreheatError(
        'this agent may not have every host pin an image: ' +
          'pins outlive the preheat, so ask at a root (--admin)',
        { code: 'refused' },
      );
    }
    const id = toHex(this.#components.random.bytes(ID_BYTES));
    return this.#ask({ action: 'start', id, spec });
  }

  get(id: string): Promise<PreheatJob> {
    return this.#ask({ action: 'status', id });
  }

  cancel(id: string): Promise<PreheatJob> {
    return this.#ask({ action: 'cancel', id });
  }

  async stop(): Promise<void> {
    await this.#jobs?.stop();
    await this.#host.stop();
  }

  /**
   * Leads preheats that any host asks for, except pins: pins are for people, at the admin endpoint
   * of a root.
   */
  #onPreheat(jobs: PreheatJobs, peer: PeerId, request: PreheatRequest): PreheatJob {
    if (request.action === 'start' && (request.spec.pin || !PREHEAT_ID.test(request.id))) {
      throw new PreheatError(`${peer} may not ask for a pin, or gives no sound id`, {
        code: 'refused',
      });
    }
    return runJob(jobs, request);
  }

  /**
   * Only roots may tell a host to preheat, and only a host that keeps no trees: roots and relays
   * keep the blocks that pass through them.
   */
  #onHostPreheat(peer: PeerId, request: HostPreheatRequest): HostPreheatReply {
    if (!this.#isHost || !this.#roots.some((root) => root.peer === peer)) {
      throw new PreheatError(`${peer} may not tell this host to preheat`, { code: 'refused' });
    }
    const progress = this.#progressOf(request);
    return { zone: this.#zone, ...(progress !== undefined && { progress }) };
  }

  #progressOf(request: HostPreheatRequest): HostProgress | undefined {
    switch (request.action) {
      case 'ask':
        return undefined;
      case 'start':
        return this.#host.start(request.id, request.order);
      case 'status':
        return this.#host.progress(request.id, request.missing);
      case 'cancel':
        return this.#host.cancel(request.id);
    }
  }

  /** Asks the root that leads the preheat, else one after the other: two would lead it twice. */
  async #ask(request: PreheatRequest): Promise<PreheatJob> {
    if (this.#jobs !== undefined) return this.#asRoot(this.#jobs, request);
    const leader = this.#leaders.get(request.id);
    const hosts = leader === undefined ? this.#roots : [leader];
    const { job, root } = await this.#askRoots(hosts, request).catch((error: unknown) => {
      throw toPreheatError(error);
    });
    this.#leaders.set(request.id, root);
    return job;
  }

  /** A root leads its own preheats, and asks another root about the preheats of that root. */
  async #asRoot(jobs: PreheatJobs, request: PreheatRequest): Promise<PreheatJob> {
    try {
      return runJob(jobs, request);
    } catch (error) {
      const { self } = this.#components.transport;
      if (!(error instanceof PreheatError) || error.code !== 'not-found') throw error;
      const others = this.#roots.filter(({ peer }) => peer !== self);
      const found = await this.#askRoots(others, request).catch(() => undefined);
      if (found === undefined) throw error;
      return found.job;
    }
  }

  #askRoots(
    hosts: readonly HostAddress[],
    request: PreheatRequest,
  ): Promise<{ readonly job: PreheatJob; readonly root: HostAddress }> {
    const { askRoots, transport } = this.#components;
    return askRoots.ask({
      call: 'preheat',
      hosts,
      timeoutMs: CALL_MS_MAX,
      oneByOne: request.action === 'start',
      ask: async (root, signal) => ({
        job: await transport.call(root, 'preheat', request, signal),
        root,
      }),
      // Another root would begin the same once more.
      isFinal: (error) => {
        const { code } = toPreheatError(error);
        return code === 'full' || code === 'refused';
      },
    });
  }
}

/**
 * Reads of a block at the registry, to hear what it says: a blob of one block, which is held
 * against its digest, or else the first byte.
 */
function probeOf(origin: Pick<Origin, 'readInto'>): PreheatProbe {
  return async ({ blob, origin: place }, index, signal) => {
    const isWhole = blob.sizeBytes <= BLOCK_SIZE_BYTES;
    const target = new Uint8Array(isWhole ? blob.sizeBytes : 1);
    const offset = index * BLOCK_SIZE_BYTES;
    await origin.readInto({ ...blob, origin: place }, offset, Scatter.of(target), signal);
  };
}

function runJob(jobs: PreheatJobs, request: PreheatRequest): PreheatJob {
  switch (request.action) {
    case 'start':
      return jobs.start(request.id, request.spec);
    case 'status':
      return jobs.get(request.id);
    case 'cancel':
      return jobs.cancel(request.id);
  }
}

function toPreheatError(cause: unknown): PreheatError {
  const failed = (code: PreheatError['code'], text: string): PreheatError =>
    new PreheatError(text, { code }, { cause });
  switch (cause instanceof PeerError ? cause.code : undefined) {
    case 'overloaded':
      return failed(
        'full',
        'the root leads as many preheats as it takes at a time: try again later',
      );
    case 'not-found':
      return failed('not-found', 'no root knows the preheat (any more)');
    case 'refused':
      return failed('refused', 'the root refused the preheat');
    default:
      if (cause instanceof NobodyError) {
        return failed(
          'unreachable',
          'no root agent was found yet: see `roots` in the configuration',
        );
      }
      return failed('unreachable', `no root could be asked: ${errorText(cause)}`);
  }
}
