import type { Stream } from '@libp2p/interface';

/** Pieces in which data arrived, without joining them: `subarray()` of a list would copy it all. */
export function piecesOf(
  data: Uint8Array | Iterable<Uint8Array>,
): readonly Uint8Array[] | Iterable<Uint8Array> {
  return data instanceof Uint8Array ? [data] : data;
}

/**
 * Resolves when all that was sent on the stream is encrypted and with the socket, so that its
 * buffers may be reused, or when the stream closed. Called after `send()` returned false.
 *
 * `stream.onDrain()` resolves at once from its second use on, so this waits for the event. A
 * `drain` event alone is not the end: the stream goes on sending in a microtask after it and may
 * fill up again, or it is a window update that came while the connection is full. So it looks again
 * a microtask later: only when the stream then holds nothing and needs no drain did the connection
 * take everything.
 */
export function flushed(stream: Stream): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      stream.removeEventListener('drain', look);
      stream.removeEventListener('close', finish);
      resolve();
    };
    const look = (): void => {
      queueMicrotask(() => {
        if (isClosed(stream) || isFlushed(stream)) finish();
      });
    };
    stream.addEventListener('drain', look);
    stream.addEventListener('close', finish);
    if (isClosed(stream)) finish();
  });
}

function isFlushed(stream: Stream): boolean {
  return !stream.writableNeedsDrain && stream.writeBufferLength === 0;
}

/** Whether nothing can be sent any more. */
export function isClosed(stream: Stream): boolean {
  return stream.status !== 'open' || stream.writeStatus !== 'writable';
}
