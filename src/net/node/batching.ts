import { Socket } from 'node:net';
import type {
  ConnectionEncrypter,
  MessageStream,
  Stream,
  StreamMuxer,
  StreamMuxerFactory,
} from '@libp2p/interface';

// Both functions change methods of objects that libp2p made, since it has no option for either.
// `npm run bench net` has the difference: 7,900 small reads a second without, 16,000 with both; a
// block of 256 KiB costs a third less. Where a later version of libp2p has other names inside, they
// change nothing, and test/net/node/batching.test.ts says so.

/**
 * What a yamux stream has beside the interface of libp2p: what it knows of the window of bytes that
 * the peer may send.
 */
interface YamuxStream extends Stream {
  readonly state: number;
  recvWindow: number;
  /** What is left of it. */
  readonly recvWindowCapacity: number;
  sendWindowUpdate(): void;
}

interface YamuxMuxer extends StreamMuxer {
  _newStream(...args: unknown[]): Stream;
}

/**
 * `state` of a stream that is open on both sides; until then an update carries the flags that open
 * it.
 */
const ESTABLISHED = 3;

/**
 * yamux grants the peer what it used of the window after every message, also after one of five
 * bytes: half of all messages were such grants. With this it does so once half of the window is
 * used. And the window begins with these bytes: anything beyond the 256 KiB of the yamux
 * specification is granted by the frame that opens the stream, or the next one.
 */
export function fewerWindowUpdates<C>(
  make: (components: C) => StreamMuxerFactory,
  windowBytes: number,
): (components: C) => StreamMuxerFactory {
  return (components) => {
    const factory = make(components);
    const createStreamMuxer = factory.createStreamMuxer.bind(factory);
    factory.createStreamMuxer = (connection) => {
      const muxer = createStreamMuxer(connection);
      if (isYamuxMuxer(muxer)) {
        const newStream = muxer._newStream.bind(muxer);
        muxer._newStream = (...args) => withFewerUpdates(newStream(...args), windowBytes);
      }
      return muxer;
    };
    return factory;
  };
}

function withFewerUpdates(stream: Stream, windowBytes: number): Stream {
  if (!isYamuxStream(stream)) return stream;
  stream.recvWindow = Math.max(stream.recvWindow, windowBytes);
  const update = stream.sendWindowUpdate.bind(stream);
  stream.sendWindowUpdate = () => {
    const { state, recvWindow, recvWindowCapacity } = stream;
    if (state !== ESTABLISHED || recvWindowCapacity <= recvWindow / 2) update();
  };
  return stream;
}

function isYamuxMuxer(muxer: StreamMuxer): muxer is YamuxMuxer {
  return '_newStream' in muxer;
}

function isYamuxStream(stream: Stream): stream is YamuxStream {
  return 'sendWindowUpdate' in stream && 'recvWindowCapacity' in stream && 'state' in stream;
}

/**
 * Encrypted messages go to the socket in two pieces each, their length and themselves: two system
 * calls, and often two wake-ups of the peer. With this what is sent in one go leaves in one write.
 */
export function inOneWrite<C>(
  make: (components: C) => ConnectionEncrypter,
): (components: C) => ConnectionEncrypter {
  return (components) => {
    const encrypter = make(components);
    const secureInbound = encrypter.secureInbound.bind(encrypter);
    const secureOutbound = encrypter.secureOutbound.bind(encrypter);
    encrypter.secureInbound = (connection, options) => {
      corkEachTurn(connection);
      return secureInbound(connection, options);
    };
    encrypter.secureOutbound = (connection, options) => {
      corkEachTurn(connection);
      return secureOutbound(connection, options);
    };
    return encrypter;
  };
}

/** Holds back what is written to the connection's socket until the code that runs now has ended. */
function corkEachTurn(connection: MessageStream): void {
  const socket = 'socket' in connection ? connection.socket : undefined;
  if (!(socket instanceof Socket)) return;
  const send = connection.send.bind(connection);
  let isCorked = false;
  const uncork = (): void => {
    isCorked = false;
    socket.uncork();
  };
  connection.send = (data) => {
    if (!isCorked) {
      isCorked = true;
      socket.cork();
      process.nextTick(uncork);
    }
    return send(data);
  };
}
