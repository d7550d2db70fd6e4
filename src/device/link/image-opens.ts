import type { BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { backoffMs } from '../../util/backoff.ts';
import { Counts } from '../../util/counts.ts';
import { isFinal, LinkError, type LinkErrorCode } from './errors.ts';
import {
  encodeIdFrame,
  encodeOpen,
  encodeSettled,
  FRAME,
  type LinkFailure,
  type OpenedReply,
} from './frames.ts';
import type { Lane } from './lane.ts';
import {
  ABSENT_MS,
  ANSWER_SHARE,
  OPEN_TIMEOUT_MS,
  OPENING_MAX,
  OPENS_MAX,
  RECONNECT_MS_MAX,
  RECONNECT_MS_MIN,
  REOPEN_MS_MAX,
  TIMEOUT_MS_MAX,
} from './limits.ts';

/** An image to open through the agent. */
export interface LinkImage {
  /** `host/name[:tag][@digest]` */
  readonly reference: string;
  /** Of the manifest, when it is known. */
  readonly manifestDigest?: Digest | undefined;
  /** The block layers wanted, bottom first; none for all that the manifest has. */
  readonly layers: readonly BlobRef[];
}

/** An image that the agent has open. */
export interface OpenedLink {
  /** Its block layers, bottom first. */
  readonly layers: readonly BlobRef[];
  /** Its manifest, when the agent could find it out. */
  readonly manifest: Uint8Array | undefined;
  /** The agent may let go of the image. Call it once. */
  close(): void;
}

/** An image that somebody wants open. */
interface Open {
  readonly image: LinkImage;
  /** Set while it has never been open. */
  first: First | undefined;
  readonly deadlineMs: number;
  /** It is in use: the agent need not find out whether it exists, and no failure is the last. */
  isInUse: boolean;
  opened: OpenedReply | undefined;
  /** What it was asked as on this connection, while `asked` or `open`. */
  id: number;
  state: 'waiting' | 'asked' | 'open' | 'closed';
  failureCount: number;
  failure: LinkFailure | undefined;
  pause: Timer | undefined;
}

interface First {
  readonly resolve: (opened: OpenedLink) => void;
  readonly reject: (error: LinkError) => void;
}

interface Components {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly lane: Pick<Lane, 'isUp' | 'isRefused' | 'why' | 'send'>;
  readonly nextId: () => number;
  /** Blobs of an image can be read now. */
  readonly onOpen: () => void;
}

/**
 * Images that a device process has open at its agent: asks for them, and again on each new
 * connection.
 */
export class ImageOpens {
  readonly #components: Components;
  readonly #path: string;
  readonly #opens = new Set<Open>();
  /** How many open images have each blob, as this connection of the agent knows them. */
  #blobs = new Counts<Digest>();
  readonly #byId = new Map<number, Open>();
  #openingCount = 0;
  #isStopped = false;
  #isSettled = false;
  #isSettledTold = false;

  constructor(components: Components, init: { readonly path: string }) {
    this.#components = components;
    this.#path = init.path;
  }

  /** Whether the agent has an image with this blob open. */
  has(digest: Digest): boolean {
    return this.#blobs.has(digest);
  }

  /** Waits as long as it takes, without `timeoutMs`. Rejects with LinkError. */
  open(image: LinkImage, timeoutMs: number | undefined, signal: AbortSignal): Promise<OpenedLink> {
    const { clock, lane } = this.#components;
    return new Promise((resolve, reject) => {
      if (signal.aborted || this.#isStopped)
        return reject(this.#error(image, 'cancelled', 'cancelled'));
      if (this.#opens.size >= OPENS_MAX) {
        return reject(this.#error(image, 'overloaded', `${OPENS_MAX} images are open`));
      }
      const ends = (): void => {
        timer?.cancel();
        absence?.cancel();
        signal.removeEventListener('abort', onAbort);
      };
      const settle: First = {
        resolve: (opened) => {
          ends();
          resolve(opened);
        },
        reject: (error) => {
          ends();
          this.#close(open);
          reject(error);
        },
      };
      const isInUse = timeoutMs === undefined;
      const deadlineMs = isInUse ? Number.POSITIVE_INFINITY : clock.nowMs() + timeoutMs;
      const open: Open = {
        ...{ image, first: settle, deadlineMs, isInUse, opened: undefined, id: 0 },
        ...{ state: 'waiting' },
        ...{ failureCount: 0, failure: undefined, pause: undefined },
      };
      const onLate = (): void =>
        settle.reject(this.#error(image, 'unreachable', this.#tried(open, timeoutMs ?? 0)));
      const timer = isInUse ? undefined : clock.setTimer(timeoutMs, onLate);
      const onAbsent = (): void => {
        if (!lane.isUp)
          settle.reject(this.#error(image, 'unreachable', this.#tried(open, ABSENT_MS)));
      };
      const absence =
        isInUse || timeoutMs < ABSENT_MS ? undefined : clock.setTimer(ABSENT_MS, onAbsent);
      const onAbort = (): void => settle.reject(this.#error(image, 'cancelled', 'cancelled'));
      signal.addEventListener('abort', onAbort, { once: true });
      this.#opens.add(open);
      if (lane.isRefused) this.#refuse(open);
      else this.#ask();
    });
  }

  /** All that an earlier process had open is open again: the agent need not keep more for it. */
  settled(): void {
    this.#isSettled = true;
    this.#tellSettled();
  }

  onUp(): void {
    this.#isSettledTold = false;
    this.#ask();
    this.#tellSettled();
  }

  /** What is not in use yet cannot wait for another agent. */
  onRefused(): void {
    for (const open of [...this.#opens]) this.#refuse(open);
  }

  onDown(): void {
    this.#byId.clear();
    this.#blobs = new Counts();
    this.#openingCount = 0;
    for (const open of this.#opens) open.state = 'waiting';
  }

  /** Whether the reply is to an image that was asked for. */
  onOpened(id: number, opened: OpenedReply): boolean {
    const open = this.#byId.get(id);
    if (open === undefined || open.state === 'open') return false;
    this.#openingCount--;
    if (open.state === 'closed') {
      // It was taken back too late.
      this.#byId.delete(id);
      this.#components.lane.send(encodeIdFrame(FRAME.CLOSE, id));
      this.#ask();
      return true;
    }
    open.state = 'open';
    open.opened = opened;
    open.isInUse = true;
    open.failureCount = 0;
    for (const { digest } of opened.layers) this.#blobs.add(digest);
    const { first } = open;
    open.first = undefined;
    first?.resolve({
      layers: opened.layers,
      manifest: opened.manifest,
      close: () => this.#close(open),
    });
    this.#ask();
    this.#tellSettled();
    this.#components.onOpen();
    return true;
  }

  /** Whether the failure is of an image that was asked for. */
  onError(id: number, failure: LinkFailure): boolean {
    const open = this.#byId.get(id);
    if (open === undefined) return false;
    this.#byId.delete(id);
    this.#openingCount--;
    this.#ask();
    if (open.state === 'closed') return true;
    open.state = 'waiting';
    open.failure = failure;
    open.failureCount++;
    const { clock, logger } = this.#components;
    const { reference } = open.image;
    if (!open.isInUse && isFinal(failure.code)) {
      open.first?.reject(this.#error(open.image, failure.code, failure.text));
      return true;
    }
    if (open.isInUse && open.failureCount === 1) {
      logger.warn(
        { reference, ...failure },
        'the agent does not open an image again: its reads wait',
      );
    }
    const maxMs = open.isInUse ? REOPEN_MS_MAX : RECONNECT_MS_MAX;
    const pauseMs = backoffMs(open.failureCount, RECONNECT_MS_MIN, maxMs);
    open.pause = clock.setTimer(pauseMs, () => {
      open.pause = undefined;
      this.#ask();
    });
    return true;
  }

  /** Rejects what is not open yet; the agent learns of the end by the connection's. */
  stop(): void {
    this.#isStopped = true;
    for (const open of [...this.#opens]) {
      open.first?.reject(this.#error(open.image, 'cancelled', 'the link was stopped'));
      open.pause?.cancel();
    }
    this.#opens.clear();
  }

  /** Asks for the images that wait, as far as there is room. */
  #ask(): void {
    const { lane, nextId, clock } = this.#components;
    if (!lane.isUp) return;
    for (const open of this.#opens) {
      if (this.#openingCount >= OPENING_MAX) return;
      if (open.state !== 'waiting' || open.pause !== undefined) continue;
      const { image, isInUse, opened } = open;
      open.id = nextId();
      open.state = 'asked';
      this.#openingCount++;
      this.#byId.set(open.id, open);
      const leftMs = isInUse ? OPEN_TIMEOUT_MS : open.deadlineMs - clock.nowMs();
      const { reference, manifestDigest } = image;
      lane.send(
        encodeOpen(open.id, {
          ...{ reference, manifestDigest, layers: opened?.layers ?? image.layers },
          ...{ isAgain: isInUse, manifest: opened?.manifest },
          timeoutMs: Math.min(TIMEOUT_MS_MAX, Math.max(1, Math.ceil(leftMs * ANSWER_SHARE))),
        }),
      );
    }
  }

  #refuse({ isInUse, image, first }: Open): void {
    const { lane } = this.#components;
    if (!isInUse) first?.reject(this.#error(image, 'unreachable', lane.why));
  }

  #tellSettled(): void {
    const { lane } = this.#components;
    if (!this.#isSettled || this.#isSettledTold || !lane.isUp) return;
    const waits = [...this.#opens].some(({ isInUse, state }) => isInUse && state !== 'open');
    if (waits) return;
    this.#isSettledTold = true;
    lane.send(encodeSettled());
  }

  #close(open: Open): void {
    if (!this.#opens.delete(open)) return;
    const { state, id } = open;
    open.state = 'closed';
    open.pause?.cancel();
    const { lane } = this.#components;
    if (state === 'open') {
      this.#byId.delete(id);
      for (const { digest } of open.opened?.layers ?? []) this.#blobs.remove(digest);
      if (lane.isUp) lane.send(encodeIdFrame(FRAME.CLOSE, id));
      this.#tellSettled();
    }
    // Answered by ERROR; or by OPENED, if that was on its way.
    if (state === 'asked' && lane.isUp) lane.send(encodeIdFrame(FRAME.CANCEL, id));
  }

  #tried({ state, failure, failureCount }: Open, timeoutMs: number): string {
    const { lane } = this.#components;
    const tried = [
      ...(failure !== undefined
        ? [`the agent failed ${failureCount} times, last with ${failure.code}: ${failure.text}`]
        : []),
      ...(lane.isUp ? [] : [`there is no connection: ${lane.why}`]),
      ...(state === 'asked' ? ['it was asked and has not answered'] : []),
    ];
    return `not within ${timeoutMs} ms: ${tried.join('; ')}`;
  }

  #error({ reference }: LinkImage, code: LinkErrorCode, why: string): LinkError {
    const text = `cannot open ${reference} through the agent at ${this.#path}: ${why}`;
    return new LinkError(text, { code });
  }
}
