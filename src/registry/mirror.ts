import type { Clock } from '../runtime/clock.ts';
import { ExpiringMap } from '../util/expiring-map.ts';
import { RegistryError } from './errors.ts';
import type { BodySink, HttpAnswer } from './http/message.ts';
import type { RegistryMetrics } from './metrics.ts';
import { withDeadline, type OperationLimits } from './http/retry.ts';
import type { RegistryServer, ServerRequest } from './server.ts';

/**
 * A mirror that could not be reached, or is slow, is left alone for this long; so is a path that it
 * has not got. (tunable)
 */
const AWAY_MS = 30_000;

/** One that asks for patience is left alone for as long as it says, and for no longer than this. */
const LIMITED_MS_MAX = 5 * 60_000;

/** One that gave wrong bytes is left alone for this long. (tunable) */
const DISTRUST_MS = 10 * 60_000;

/**
 * Longest that one is waited for, and never longer than half of what is left: a block takes it
 * milliseconds. (tunable)
 */
const ANSWER_MS_MAX = 5_000;

/**
 * When the caller gives up after this long, the mirror was slow too: the engine does so with a
 * source that keeps it waiting. (tunable)
 */
const SLOW_MS = 500;

/** Paths remembered that a mirror has not got; the oldest is asked for again. */
const MISSING_MAX = 1024;

/** A request to a server, and what makes its answer a good one beside its form. */
export interface CheckedRequest<S> extends ServerRequest<S> {
  /** Throws RegistryError when the answer is not what was asked for. */
  readonly check?: ((answer: HttpAnswer<S>) => void) | undefined;
}

/** Until when all requests leave a mirror alone. */
export class MirrorHealth {
  readonly #clock: Clock;
  #awayUntilMs = 0;

  constructor(components: { readonly clock: Clock }) {
    this.#clock = components.clock;
  }

  get isAway(): boolean {
    return this.#clock.nowMs() < this.#awayUntilMs;
  }

  /** What was read was not what its digest says, and this mirror may have sent it. */
  distrust(): void {
    this.leave(DISTRUST_MS);
  }

  leave(forMs: number): void {
    this.#awayUntilMs = Math.max(this.#awayUntilMs, this.#clock.nowMs() + forMs);
  }
}

/** The place of its API that a mirror was found to have, of those that its URL may mean. */
export class MirrorForm {
  #root: string | undefined;

  /** Whether this may be the place. */
  may(root: string): boolean {
    return this.#root === undefined || this.#root === root;
  }

  /** What was asked for came from there. */
  found(root: string): void {
    this.#root ??= root;
  }
}

/** How a mirror is asked, for all views of it. */
export interface MirrorSite {
  readonly health: MirrorHealth;
  readonly root: string;
  readonly form: MirrorForm;
}

/**
 * A server that is asked before a registry, as one view of it sees it: whatever is wrong with it,
 * the registry itself is still there.
 */
export class Mirror {
  readonly #components: { readonly clock: Clock; readonly metrics: RegistryMetrics };
  readonly #server: RegistryServer;
  readonly #site: MirrorSite;
  /** Requests that are not made, as `nameOf()` has them. */
  readonly #missing: ExpiringMap<true>;

  constructor(
    components: { readonly clock: Clock; readonly metrics: RegistryMetrics },
    server: RegistryServer,
    site: MirrorSite,
  ) {
    this.#components = components;
    this.#server = server;
    this.#site = site;
    this.#missing = new ExpiringMap(components, { entriesMax: MISSING_MAX });
  }

  /**
   * The answer, or undefined when the mirror has none that is right; rejects with the reason of the
   * operation's signal alone.
   */
  async ask<S extends BodySink>(
    request: CheckedRequest<S>,
    limits: OperationLimits,
  ): Promise<HttpAnswer<S> | undefined> {
    const { clock, metrics } = this.#components;
    const nowMs = clock.nowMs();
    const { health, root, form } = this.#site;
    if (health.isAway || !form.may(root)) return undefined;
    if (this.#missing.get(nameOf(request)) === true) return undefined;
    const timeoutMs = Math.min(ANSWER_MS_MAX, (limits.deadlineMs - nowMs) / 2);
    try {
      return await withDeadline({ clock }, { signal: limits.signal, timeoutMs }, async (own) => {
        const answer = await this.#server.request(request, own.signal);
        request.check?.(answer);
        form.found(root);
        return answer;
      });
    } catch (error) {
      if (limits.signal.aborted) {
        if (clock.nowMs() - nowMs >= SLOW_MS) this.#site.health.leave(AWAY_MS);
        throw limits.signal.reason;
      }
      if (!(error instanceof RegistryError)) throw error;
      metrics.mirrorFailures.inc({ code: error.code });
      this.#leaveAlone(nameOf(request), error);
      return undefined;
    }
  }

  #leaveAlone(name: string, error: RegistryError): void {
    const { detail } = error;
    switch (detail.code) {
      case 'digest-mismatch':
        return this.#site.health.distrust();
      case 'rate-limited':
        return this.#site.health.leave(limitedMs(detail.retryAfterMs));
      case 'unavailable':
      case 'timeout':
        return this.#site.health.leave(AWAY_MS);
      default:
        this.#missing.set(name, true, AWAY_MS);
    }
  }
}

/** As long as the mirror asks for, within bounds. */
function limitedMs(retryAfterMs = 0): number {
  return Math.min(LIMITED_MS_MAX, Math.max(AWAY_MS, retryAfterMs));
}

/** A server may refuse the HEAD of what it has. */
function nameOf({ method, path }: { readonly method: string; readonly path: string }): string {
  return `${method} ${path}`;
}
