import type { Socket } from 'node:net';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { errorText } from '../../util/errors.ts';
import type { ReadOnlyDisk } from '../disk.ts';
import type { DeviceMetrics } from '../metrics.ts';
import { Negotiation, type ExportInfo, type ExportNames, type Session } from './negotiation.ts';
import { Outbox } from './outbox.ts';
import { COMMAND_BYTES, decodeCommand, encodeGreeting, type NbdCommand } from './protocol.ts';
import { Transmission } from './transmission.ts';

/** A device that the server offers. */
export interface NbdExport extends ExportInfo {
  readonly disk: ReadOnlyDisk;
}

/** What a connection needs of its server. */
export interface ConnectionParts {
  readonly exports: ExportNames<NbdExport>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: DeviceMetrics;
}

/** Longest handshake, in milliseconds: a client asks a handful of options at once. */
const HANDSHAKE_TIMEOUT_MS = 30_000;

/**
 * Most bytes of replies that the kernel has not taken yet, until the next command waits. A client
 * that reads has none.
 */
const UNSENT_BYTES_MAX = 1024 * 1024;

/**
 * One client, from the greeting to the end of its connection.
 *
 * Life: constructed -> the socket's events drive it -> `closed` resolves. Commands wait in the
 * socket while too many replies wait for the client, or for the disk.
 */
export class NbdConnection {
  /** Resolves when the socket is closed. */
  readonly closed: Promise<void>;
  readonly #parts: ConnectionParts;
  readonly #socket: Socket;
  readonly #outbox: Outbox;
  #negotiation: Negotiation<NbdExport> | undefined;
  #transmission: Transmission | undefined;
  #session: Session<NbdExport> | undefined;
  /** Received, and not handled yet. */
  #rest: Uint8Array = new Uint8Array(0);
  /** Bytes of a write's data that are still to come, which nobody wants, and their command. */
  #skip: { left: number; readonly command: NbdCommand } | undefined;
  #deadline: Timer | undefined;
  #isEnding = false;
  #hasEnded = false;

  /** With a session there is no handshake: both sides know of it. */
  constructor(parts: ConnectionParts, socket: Socket, session?: Session<NbdExport>) {
    this.#parts = parts;
    this.#socket = socket;
    this.#outbox = new Outbox(socket);
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#deadline?.cancel();
        this.#transmission?.close();
        resolve();
      });
    });
    socket.on('error', (error) =>
      parts.logger.debug({ error: errorText(error) }, 'an NBD client is gone'),
    );
    socket.on('data', (bytes: Uint8Array) => this.#receive(bytes));
    socket.on('drain', () => this.#resume());
    if (session === undefined) this.#greet();
    else this.#begin(session);
  }

  /** Name of the chosen device; undefined during the handshake. */
  get exportName(): string | undefined {
    return this.#session?.export.name;
  }

  /** Cuts the connection. Clients that reconnect ask again what has no reply yet. */
  cut(): void {
    this.#socket.destroy();
  }

  #greet(): void {
    this.#negotiation = new Negotiation(this.#parts.exports);
    this.#deadline = this.#parts.clock.setTimer(HANDSHAKE_TIMEOUT_MS, () => this.cut());
    this.#socket.write(encodeGreeting());
  }

  #begin(session: Session<NbdExport>): void {
    this.#negotiation = undefined;
    this.#session = session;
    this.#deadline?.cancel();
    this.#transmission = new Transmission(this.#parts, session, {
      outbox: this.#outbox,
      resume: () => this.#resume(),
    });
  }

  #receive(bytes: Uint8Array): void {
    this.#rest = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    this.#handle();
  }

  #resume(): void {
    if (this.#socket.destroyed) return;
    this.#handle();
  }

  /** Handles what is at hand, as far as there is room for replies. */
  #handle(): void {
    let at = 0;
    const bytes = this.#rest;
    while (!this.#isEnding && !this.#isFull()) {
      const used =
        this.#negotiation === undefined
          ? this.#takeCommand(bytes, at)
          : this.#negotiate(this.#negotiation, bytes.subarray(at));
      if (used === 0) break;
      at += used;
    }
    if (at > 0) this.#rest = bytes.subarray(at);
    this.#outbox.flush();
    if (this.#isEnding) this.#end();
    else if (this.#isFull()) this.#socket.pause();
    else this.#socket.resume();
  }

  #isFull(): boolean {
    return this.#socket.writableLength > UNSENT_BYTES_MAX || (this.#transmission?.isFull ?? false);
  }

  #negotiate(negotiation: Negotiation<NbdExport>, bytes: Uint8Array): number {
    const { used, output, then } = negotiation.take(bytes);
    for (const reply of output) this.#socket.write(reply);
    if (then === 'close') this.#isEnding = true;
    else if (then !== 'more') this.#begin(then);
    return used;
  }

  /** Bytes of the next command, or of data that nobody wants; 0 when it is not complete. */
  #takeCommand(bytes: Uint8Array, at: number): number {
    const left = bytes.length - at;
    if (this.#skip !== undefined) return this.#skipData(this.#skip, left);
    if (left < COMMAND_BYTES) return 0;
    const command = decodeCommand(bytes, at);
    if (command === undefined) {
      this.#parts.logger.warn({}, 'an NBD client sent something else than a command: hanging up');
      this.#socket.destroy();
      this.#isEnding = true;
      return 0;
    }
    const outcome = this.#transmission?.take(command);
    if (outcome === 'end') this.#isEnding = true;
    if (outcome === 'skip') this.#skip = { left: command.length, command };
    return COMMAND_BYTES;
  }

  #skipData(skip: { left: number; readonly command: NbdCommand }, count: number): number {
    const used = Math.min(skip.left, count);
    skip.left -= used;
    if (skip.left === 0) {
      this.#skip = undefined;
      this.#transmission?.refuseWrite(skip.command);
    }
    return used;
  }

  /** Hangs up after the replies that are owed. */
  #end(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#socket.pause();
    const done = this.#transmission?.idle() ?? Promise.resolve();
    void done.then(() => this.#socket.end(() => this.#socket.destroy()));
  }
}
