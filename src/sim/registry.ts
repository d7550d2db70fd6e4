import type { Digest } from '../image/digest.ts';
import type { Random } from '../runtime/random.ts';
import type { OriginSource } from '../transfer/core/effects.ts';
import type { PeerErrorDetail } from '../transfer/contracts/transport.ts';
import type { SimBlock } from './blocks.ts';
import type { EventHeap } from './event-heap.ts';
import type { HostNumber, SimEvent } from './events.ts';
import type { Port } from './network.ts';

/** One way to the registry, in milliseconds. */
const LATENCY_MS = 0.5;

/**
 * Time to the first byte of a range at a registry on object storage, in milliseconds; up to half
 * more.
 */
const SERVICE_MS = 4;

/** Time to the first byte when the registry is slow, in milliseconds. */
const SLOW_SERVICE_MS = 400;

/** Share of the requests that a failing registry refuses. */
const FAILING_SHARE = 0.5;

/** Time for a new token: a request to the token service, and the repeated request. */
const TOKEN_MS = 40;

/** A host gives up a connection to an unreachable registry after this long. */
const UNREACHABLE_MS = 5_000;

/** State of the registry; `expired`: every host needs a new token once. */
export type RegistryMode = 'healthy' | 'throttled' | 'failing' | 'slow' | 'expired';

/**
 * The registry: one fast link, a bound on requests per second, and credentials.
 *
 * Fault model: the registry answers half of the requests with 429 or with 5xx; it takes a hundred
 * times as long; it ends everybody's credentials; hosts of another group cannot reach it
 * (partition). It never sends wrong bytes: roots attest the bytes that it sends.
 */
export class Registry {
  mode: RegistryMode = 'healthy';
  /** The side of the partition that the registry is on. */
  group = 0;
  servedBytes = 0;
  fallbackBytes = 0;
  /** The same by host. */
  readonly fallbackBytesOf = new Map<HostNumber, number>();
  readonly #events: EventHeap<SimEvent>;
  readonly #random: Random;
  readonly #bytesPerMs: number;
  readonly #requestsPerMs: number;
  readonly #renewed = new Set<HostNumber>();
  #sendFreeMs = 0;
  /**
   * Requests that the bound allows now: a bucket that fills at the rate and holds one second's
   * worth.
   */
  #allowed: number;
  #allowedAtMs = 0;

  constructor(
    components: { events: EventHeap<SimEvent>; random: Random },
    init: { bytesPerMs: number; requestsPerSecond: number },
  ) {
    this.#events = components.events;
    this.#random = components.random;
    this.#bytesPerMs = init.bytesPerMs;
    this.#requestsPerMs = init.requestsPerSecond / 1000;
    this.#allowed = init.requestsPerSecond;
  }

  /** Whether a host could read from the registry now. */
  serves(port: Port): boolean {
    return port.group === this.group && this.mode === 'healthy';
  }

  setMode(mode: RegistryMode): void {
    this.mode = mode;
    this.#renewed.clear();
  }

  /** A host asks for a block; an `item` event brings the answer. */
  read(
    port: Port,
    ask: { attempt: number; block: SimBlock; source: OriginSource },
    atMs: number,
  ): void {
    if (port.group !== this.group) {
      this.#fail(port, ask.attempt, atMs + UNREACHABLE_MS);
      return;
    }
    if (this.#refuses(atMs)) {
      this.#fail(port, ask.attempt, atMs + 2 * LATENCY_MS);
      return;
    }
    const service = this.mode === 'slow' ? SLOW_SERVICE_MS : SERVICE_MS;
    const renewMs = this.mode === 'expired' && !this.#renewed.has(port.number) ? TOKEN_MS : 0;
    if (renewMs > 0) this.#renewed.add(port.number);
    const readyMs = atMs + LATENCY_MS + renewMs + service * (1 + 0.5 * this.#random.float());
    const { lengthBytes } = ask.block;
    this.servedBytes += lengthBytes;
    if (ask.source === 'fallback') this.#noteFallback(port.number, lengthBytes);
    this.#sendFreeMs = Math.max(readyMs, this.#sendFreeMs) + lengthBytes / this.#bytesPerMs;
    const freeMs = port.receiveFreeMs + lengthBytes / port.receiveBytesPerMs;
    port.receiveFreeMs = Math.max(this.#sendFreeMs + LATENCY_MS, freeMs);
    this.#events.push(port.receiveFreeMs, {
      type: 'item',
      host: port.number,
      incarnation: port.incarnation,
      item: { kind: 'origin', attempt: ask.attempt, block: ask.block, detail: undefined },
    });
  }

  /** One byte of a blob, which shows its size and that the host may read it. */
  stat(port: Port, { digest, id }: { digest: Digest; id: number | undefined }, atMs: number): void {
    const isAway = port.group !== this.group;
    const ok = !isAway && !this.#refuses(atMs);
    const service = this.mode === 'slow' ? SLOW_SERVICE_MS : SERVICE_MS;
    const doneMs = isAway ? UNREACHABLE_MS : 2 * LATENCY_MS + service;
    this.#events.push(atMs + doneMs, {
      type: 'item',
      host: port.number,
      incarnation: port.incarnation,
      item: { kind: 'stat', digest, id, ok },
    });
  }

  #noteFallback(host: HostNumber, lengthBytes: number): void {
    this.fallbackBytes += lengthBytes;
    this.fallbackBytesOf.set(host, (this.fallbackBytesOf.get(host) ?? 0) + lengthBytes);
  }

  #refuses(atMs: number): boolean {
    const second = this.#requestsPerMs * 1000;
    const earned = Math.max(0, atMs - this.#allowedAtMs) * this.#requestsPerMs;
    this.#allowed = Math.min(second, this.#allowed + earned);
    this.#allowedAtMs = Math.max(atMs, this.#allowedAtMs);
    const failing = this.mode === 'throttled' || this.mode === 'failing';
    if (failing && this.#random.float() < FAILING_SHARE) return true;
    if (this.#allowed < 1) return true;
    this.#allowed -= 1;
    return false;
  }

  #fail(port: Port, attempt: number, atMs: number): void {
    const detail: PeerErrorDetail = { code: 'unreachable' };
    this.#events.push(atMs, {
      type: 'item',
      host: port.number,
      incarnation: port.incarnation,
      item: { kind: 'origin', attempt, block: undefined, detail },
    });
  }
}
