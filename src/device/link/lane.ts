import { connect, type Socket } from 'node:net';
import { WireError } from '../../net/wire/errors.ts';
import { FrameParser } from '../../net/wire/frame-parser.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { assert, defined } from '../../util/assert.ts';
import { backoffMs } from '../../util/backoff.ts';
import { errorText } from '../../util/errors.ts';
import {
  decodeId,
  decodeRefused,
  decodeWelcome,
  encodeHello,
  FRAME,
  FROM_AGENT,
  LINK_FRAMES,
  type LinkFrame,
  type LinkLane,
} from './frames.ts';
import { HELLO_MS, LINK_VERSION, RECONNECT_MS_MAX, RECONNECT_MS_MIN } from './limits.ts';

/** What the socket reads into: a block and its head in one piece. */
const RECEIVE_BYTES = 512 * 1024;

/** The agent does not take the connection. */
class Refusal extends Error {}

/** What a lane tells. Each may throw WireError: the connection is then given up. */
export interface LaneEvents {
  /** The agent has taken the connection. */
  onUp(): void;
  /** The connection is lost: nothing that was asked on it is answered any more. */
  onDown(): void;
  /** The agent takes no connection of this process, whose version is another one. */
  onRefused(): void;
  /** OPENED or ERROR; the body is valid during the call only. */
  onFrame(type: LinkFrame, body: Uint8Array): void;
  /** A block, in memory of its own. */
  onBlock(id: number, bytes: Uint8Array): void;
}

/**
 * One connection to the agent, made again for as long as it takes: at once when it is lost, then
 * with pauses.
 *
 * Life: constructed -> `start()` -> `stop()`.
 */
export class Lane {
  readonly #components: { readonly clock: Clock; readonly logger: Logger };
  readonly #path: string;
  readonly #carries: LinkLane;
  readonly #events: LaneEvents;
  #socket: Socket | undefined;
  #timer: Timer | undefined;
  #isUp = false;
  #isStopped = true;
  #failureCount = 0;
  #why = 'it was not asked yet';
  #isRefused = false;

  constructor(
    components: { readonly clock: Clock; readonly logger: Logger },
    init: { readonly path: string; readonly carries: LinkLane; readonly events: LaneEvents },
  ) {
    this.#components = components;
    this.#path = init.path;
    this.#carries = init.carries;
    this.#events = init.events;
  }

  get isUp(): boolean {
    return this.#isUp;
  }

  /** Whether the agent refused the last connection: only another agent, or process, will do. */
  get isRefused(): boolean {
    return this.#isRefused;
  }

  /** Why there is no connection, or why the last one was lost. */
  get why(): string {
    return this.#why;
  }

  start(): void {
    assert(this.#isStopped, 'a lane is started once');
    this.#isStopped = false;
    this.#connect();
  }

  stop(): void {
    this.#isStopped = true;
    this.#timer?.cancel();
    this.#lose('the link was stopped');
  }

  /** Sends a frame; only while the lane is up. */
  send(frame: Uint8Array): void {
    assert(this.#isUp, 'nothing is sent without a connection');
    this.#socket?.write(frame);
  }

  #connect(): void {
    let heard = false;
    const parser = new FrameParser(this.#sink(), LINK_FRAMES, FROM_AGENT);
    const socket = connect({
      path: this.#path,
      onread: {
        buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES),
        callback: (count, buffer) => {
          heard = true;
          this.#take(socket, () => parser.accept(buffer.subarray(0, count)));
          return true;
        },
      },
    });
    this.#socket = socket;
    socket.once('connect', () => socket.write(encodeHello(this.#carries)));
    socket.once('error', (error) => {
      this.#isRefused = false;
      this.#lost(socket, errorText(error));
    });
    socket.once('close', () =>
      this.#lost(socket, heard ? 'the agent closed the connection' : 'the agent said nothing'),
    );
    this.#timer = this.#components.clock.setTimer(HELLO_MS, () => {
      if (!this.#isUp) this.#lost(socket, `the agent said nothing in ${HELLO_MS} ms`);
    });
  }

  #sink() {
    let block: { readonly id: number; readonly bytes: Uint8Array } | undefined;
    return {
      onFrame: (type: LinkFrame, body: Uint8Array) => {
        if (this.#isUp) this.#events.onFrame(type, body);
        else this.#onFirst(type, body);
      },
      onAnswer: (head: Uint8Array, payloadBytes: number): Uint8Array => {
        // Not zeroed: all of it comes now, or nobody sees it.
        const { buffer } = Buffer.allocUnsafeSlow(payloadBytes);
        const bytes = new Uint8Array(buffer);
        block = { id: decodeId(head), bytes };
        return bytes;
      },
      onAnswerEnd: () => {
        const { id, bytes } = defined(block, 'a block that began');
        if (this.#isUp) this.#events.onBlock(id, bytes);
      },
    };
  }

  #onFirst(type: LinkFrame, body: Uint8Array): void {
    if (type === FRAME.REFUSED) {
      const { version, text } = decodeRefused(body);
      const versions = `it speaks version ${version}, this process ${LINK_VERSION}`;
      throw new Refusal(`the agent refused: ${version === LINK_VERSION ? text : versions}`);
    }
    if (type !== FRAME.WELCOME) throw new Refusal(`the agent began with a frame of type ${type}`);
    const { agent } = decodeWelcome(body);
    this.#timer?.cancel();
    this.#isUp = true;
    this.#isRefused = false;
    this.#failureCount = 0;
    const { logger } = this.#components;
    logger.info({ path: this.#path, lane: this.#carries, agent }, 'connected to the agent');
    this.#events.onUp();
  }

  /** Runs what an arrival brings about: a mistake of the agent costs the connection, no more. */
  #take(socket: Socket, arrival: () => void): void {
    if (socket !== this.#socket) return;
    try {
      arrival();
    } catch (error) {
      if (!(error instanceof WireError || error instanceof Refusal)) throw error;
      this.#isRefused = error instanceof Refusal;
      this.#lost(socket, errorText(error));
      if (this.#isRefused) this.#events.onRefused();
    }
  }

  #lost(socket: Socket, why: string): void {
    if (socket !== this.#socket) return;
    this.#lose(why);
    if (this.#isStopped) return;
    const { clock, logger } = this.#components;
    this.#failureCount++;
    if (this.#failureCount === 1) {
      logger.warn({ path: this.#path, lane: this.#carries, why }, 'no connection to the agent');
    }
    const pauseMs = backoffMs(this.#failureCount, RECONNECT_MS_MIN, RECONNECT_MS_MAX);
    this.#timer = clock.setTimer(pauseMs, () => this.#connect());
  }

  #lose(why: string): void {
    const socket = this.#socket;
    const wasUp = this.#isUp;
    this.#socket = undefined;
    this.#isUp = false;
    this.#why = why;
    this.#timer?.cancel();
    socket?.destroy();
    if (wasUp) this.#events.onDown();
  }
}
