import type { Clock, Timer } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import { jitter, type Random } from '../../runtime/random.ts';
import type { HostAddress } from '../../tree/messages.ts';
import { errorText } from '../../util/errors.ts';
import type { PeerId } from '../../util/peer-id.ts';

/**
 * How soon after the roots became known a host shows itself: hosts that start together do not come
 * together.
 */
const FIRST_MS_MAX = 1_000;

/** How often it looks whether they still know it, half more or less. */
const INTERVAL_MS = 30_000;

/** For a connection and its handshake. */
const DIAL_MS_MAX = 5_000;

interface Components {
  readonly transport: {
    peers(): readonly PeerId[];
    identify(address: string, signal: AbortSignal): Promise<PeerId>;
  };
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/**
 * Keeps a connection of this host to each root, so that the roots know the hosts which have not
 * opened any image yet: those that preheats are for.
 *
 * Life: constructed -> `setRoots()` whenever they change -> `stop()`.
 */
export class RootPresence {
  readonly #components: Components;
  readonly #stop = new AbortController();
  #roots: readonly HostAddress[] = [];
  #timer: Timer | undefined;

  constructor(components: Components) {
    this.#components = components;
  }

  setRoots(roots: readonly HostAddress[]): void {
    this.#roots = roots;
    this.#lookAfter(FIRST_MS_MAX * this.#components.random.float());
  }

  stop(): void {
    this.#stop.abort();
    this.#timer?.cancel();
  }

  #lookAfter(delayMs: number): void {
    if (this.#stop.signal.aborted) return;
    this.#timer?.cancel();
    this.#timer = this.#components.clock.setTimer(delayMs, () => void this.#look());
  }

  async #look(): Promise<void> {
    const { transport, clock, random } = this.#components;
    const stop = { signal: this.#stop.signal };
    const known = new Set(transport.peers());
    await Promise.all(
      this.#roots
        .filter(({ peer }) => !known.has(peer))
        .map((root) => within(clock, DIAL_MS_MAX, (signal) => this.#dial(root, signal), stop)),
    );
    this.#lookAfter(jitter(random, INTERVAL_MS, 0.5));
  }

  async #dial({ peer, addresses }: HostAddress, signal: AbortSignal): Promise<void> {
    const { transport, logger } = this.#components;
    for (const address of addresses) {
      const found = await transport.identify(`${address}/p2p/${peer}`, signal).catch((error) => {
        logger.debug({ root: peer, address, error: errorText(error) }, 'a root was not reached');
        return undefined;
      });
      if (found !== undefined) return;
    }
  }
}
