import { Readable } from 'node:stream';
import type { BodySink, Flow } from './message.ts';

/** Gives a body on as a stream, no faster than it is read. */
export class StreamSink implements BodySink {
  readonly body: Readable;
  readonly #flow: Flow;

  constructor(flow: Flow) {
    this.#flow = flow;
    this.body = new Readable({
      read: () => flow.resume(),
      destroy: (error, done) => {
        flow.stop();
        done(error);
      },
    });
    // Its reader gets the error as well. Without a reader, or after it, the error must not end the
    // process.
    this.body.on('error', () => {});
  }

  write(piece: Uint8Array): boolean {
    if (this.body.destroyed) return false;
    if (!this.body.push(piece)) this.#flow.pause();
    return true;
  }

  end(): void {
    this.body.push(null);
  }

  cut(): boolean {
    return false;
  }

  fail(error: unknown): void {
    this.body.destroy(error instanceof Error ? error : new Error(String(error)));
  }
}
