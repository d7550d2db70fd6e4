import type { Logger } from '../runtime/logger.ts';
import type { AgentRole } from '../tree/messages.ts';
import type { Readiness } from './admin/services.ts';

const NO_ROOT = 'no root agent was found yet: see `roots` in the configuration';

/**
 * Whether the agent is ready, which has one meaning: it serves its local clients, a root gives it
 * places in the trees, and others can reach it (a root needs no other). Everybody is told the same:
 * probes, `status` and the log.
 */
export class AgentReadiness implements Readiness {
  readonly #logger: Logger;
  readonly #role: AgentRole;
  readonly #parts: {
    /** Why no root serves this host. */
    readonly notServed: () => string | undefined;
    /** Why it can give no blocks to others. */
    readonly notReached: () => string | undefined;
    /** What the last JOINs were refused with; undefined when one was taken. */
    readonly joinRefusal: () => string | undefined;
    readonly notices: () => readonly string[];
  };
  #phase: 'starting' | 'running' | 'stopping' = 'starting';
  #isFound = false;
  #logged = false;

  constructor(
    { logger }: { readonly logger: Logger },
    role: AgentRole,
    parts: {
      readonly notServed: () => string | undefined;
      readonly notReached: () => string | undefined;
      readonly joinRefusal: () => string | undefined;
      readonly notices: () => readonly string[];
    },
  ) {
    this.#logger = logger;
    this.#role = role;
    this.#parts = parts;
  }

  enter(phase: 'running' | 'stopping'): void {
    this.#phase = phase;
    this.changed();
  }

  /** Roots were found. */
  found(): void {
    this.#isFound = true;
    this.changed();
  }

  /** Logs what is new. */
  changed(): void {
    if (this.#phase !== 'running') return;
    const reason = this.notReady();
    const isReady = reason === undefined;
    if (isReady === this.#logged) return;
    this.#logged = isReady;
    if (isReady) this.#logger.info({}, 'ready');
    else this.#logger.warn({ reason }, 'not ready any more');
  }

  notReady(): string | undefined {
    if (this.#phase !== 'running') return this.#phase;
    if (this.#role === 'root') return undefined;
    if (!this.#isFound) return NO_ROOT;
    const refusal = this.#parts.joinRefusal();
    const refused = refusal && `no root gives this host places: ${refusal}`;
    return this.#parts.notServed() ?? refused ?? this.#parts.notReached();
  }

  notices(): readonly string[] {
    return this.#parts.notices();
  }
}
