import type { Stream, StreamMessageEvent } from '@libp2p/interface';
import { AdmissionReader } from './admission-codec.ts';
import type { Handshake, HandshakeEnd, Step } from './admission-handshake.ts';
import { piecesOf } from '../wire/stream-io.ts';

/** The peer left before the handshake ended. */
export class HungUpError extends Error {
  override name = 'HungUpError';
}

/**
 * Leads a handshake over a stream to its end. Rejects with WireError, HungUpError or the signal's
 * reason; the stream is then reset.
 */
export function converse(
  stream: Stream,
  handshake: Handshake,
  signal: AbortSignal,
): Promise<HandshakeEnd> {
  return new Promise((resolve, reject) => {
    const reader = new AdmissionReader();
    let ended = false;
    const finish = (): void => {
      ended = true;
      signal.removeEventListener('abort', onAbort);
    };
    const fail = (error: Error): void => {
      if (ended) return;
      finish();
      stream.abort(error);
      reject(error);
    };
    const onAbort = (): void => fail(signal.reason as Error);
    const take = ({ send, end }: Step): void => {
      if (send !== undefined) stream.send(send);
      if (end === undefined) return;
      finish();
      stream.close({ signal }).catch((error: unknown) => stream.abort(error as Error));
      resolve(end);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    stream.addEventListener('close', () => fail(new HungUpError('the peer ended the handshake')));
    stream.addEventListener('message', (event: StreamMessageEvent) => {
      if (ended) return;
      try {
        for (const piece of piecesOf(event.data)) {
          reader.accept(piece, (message) => {
            if (!ended) take(handshake.accept(message));
          });
        }
      } catch (error) {
        fail(error as Error);
      }
    });
    if (signal.aborted) return onAbort();
    if (handshake.first === undefined) return;
    try {
      stream.send(handshake.first);
    } catch (error) {
      fail(error as Error);
    }
  });
}
