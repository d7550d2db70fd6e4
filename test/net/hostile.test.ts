import type { Stream, StreamMessageEvent } from '@libp2p/interface';
import { afterEach, describe, expect, it } from 'vitest';
import { blockIndex } from '../../src/image/block.ts';
import * as frames from '../../src/net/wire/frames.ts';
import {
  REQUESTS_IN_FLIGHT_MAX,
  SMALL_FRAMES_QUEUED_MAX,
  REGISTRY_CALLS_MAX,
  REQUEST_ARRIVAL_MS_MAX,
  UNFINISHED_BYTES_MAX,
} from '../../src/net/limits.ts';
import { peerId } from '../../src/util/peer-id.ts';
import { defined } from '../../src/util/assert.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { BLOCK_PROTOCOL } from '../../src/net/blocks/requester-link.ts';
import { CALLS } from '../../src/net/calls/call-table.ts';
import { TREE_PROTOCOL } from '../../src/net/calls/call-link.ts';
import {
  TREE,
  messageFrames,
  treeError,
  type TreeMessage,
} from '../../src/net/calls/call-message.ts';
import type { OpenReply } from '../../src/tree/messages.ts';
import {
  anyMessages,
  closed,
  dialRaw,
  hostOf,
  received,
  startRaw,
  stopRaws,
} from './kit/raw-peer.ts';
import {
  answerNow,
  blockRequest,
  bytesOf,
  startAgent,
  stopAgents,
  type Agent,
} from './kit/transports.ts';

afterEach(async () => {
  await stopRaws();
  await stopAgents();
});

const ATTESTATION = { signer: new Uint8Array(32), signature: new Uint8Array(164) };
const VIOLATIONS = 'xylem_net_violations_total{protocol=block}';

function head(type: number, length: number): Uint8Array {
  const bytes = new Uint8Array(5);
  new DataView(bytes.buffer).setUint32(0, length, true);
  bytes[4] = type;
  return bytes;
}

/** An agent and a stream to it on which anything can be said. */
async function rawRequester(): Promise<{ agent: Agent; stream: Stream }> {
  const agent = await startAgent(1);
  const connection = await dialRaw(await startRaw(), agent.host);
  return { agent, stream: await connection.newStream(BLOCK_PROTOCOL) };
}

/** An agent whose request goes to a peer that answers with these bytes. */
async function rawResponder(say: (stream: Stream) => void): Promise<{
  agent: Agent;
  outcome: Promise<unknown>;
}> {
  const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
  await raw.handle(BLOCK_PROTOCOL, (stream) => {
    void received(stream, (bytes) => {
      if (bytes.length > 6) say(stream);
      return bytes.length > 6;
    });
  });
  await raw.start();
  const agent = await startAgent(1);
  const outcome = agent.transport
    .requestBlock(hostOf(raw), blockRequest({ timeoutMs: 8_000 }))
    .answer.catch((error: unknown) => error);
  return { agent, outcome };
}

describe('Responder', () => {
  function joinFrom(address: string): readonly Uint8Array[] {
    const host = { peer: peerId('1'.repeat(52)), addresses: [address], zone: 'z', capacity: 2 };
    const body = CALLS.join.request.encode({ host, blobs: [] });
    return [...messageFrames({ id: 1, type: CALLS.join.type, body })];
  }

  const wrong: Readonly<Record<string, readonly Uint8Array[]>> = {
    'a first frame that is no OPEN': [frames.encodeSignal(frames.FRAME.PING)],
    'a lane that does not exist': [new Uint8Array([2, 0, 0, 0, 1, 9])],
    'a second OPEN': [frames.encodeOpen('demand'), frames.encodeOpen('bulk')],
    'a frame of 4 GiB': [frames.encodeOpen('demand'), head(frames.FRAME.REQUEST, 0xffff_ffff)],
    'an ANSWER': [frames.encodeOpen('demand'), head(frames.FRAME.ANSWER, 1000)],
    'an unknown type': [frames.encodeOpen('demand'), head(99, 1)],
    'a JOIN that would have others look up a name': joinFrom('/dns4/metadata.internal/tcp/80'),
    'a JOIN that would have others dial a socket': joinFrom('/unix/var%2Frun%2Fdocker.sock'),
    'an id that is in use': [
      frames.encodeOpen('demand'),
      frames.encodeRequest(1, blockRequest()),
      frames.encodeRequest(1, blockRequest()),
    ],
  };
  for (const [name, said] of Object.entries(wrong)) {
    it(`Responder resets the streams of a peer that sends ${name}`, async () => {
      const { agent, stream } = await rawRequester();
      for (const bytes of said) stream.send(bytes);
      await closed(stream);
      expect(agent.metrics.values.get(VIOLATIONS)).toBe(1);
      // What it had asked is given up.
      expect(agent.server.cancelled).toEqual(agent.server.requests);
    });
  }

  it('Responder resets both streams when two say the same lane', async () => {
    const agent = await startAgent(1);
    const connection = await dialRaw(await startRaw(), agent.host);
    const streams = [
      await connection.newStream(BLOCK_PROTOCOL),
      await connection.newStream(BLOCK_PROTOCOL),
    ];
    for (const stream of streams) stream.send(frames.encodeOpen('demand'));
    await Promise.all(streams.map(closed));
    expect(agent.metrics.values.get(VIOLATIONS)).toBe(1);
  });

  it('Responder refuses requests beyond the credit with overloaded, and goes on', async () => {
    const { agent, stream } = await rawRequester();
    stream.send(frames.encodeOpen('demand'));
    const errorBytes = frames.encodeError(0, { code: 'refused', retryAfterMs: 0 }).length;
    const answers = received(stream, (bytes) => bytes.length >= 5 * errorBytes);
    for (let id = 0; id < REQUESTS_IN_FLIGHT_MAX + 5; id++) {
      stream.send(frames.encodeRequest(id, blockRequest()));
    }
    const refused = frames.encodeError(REQUESTS_IN_FLIGHT_MAX, {
      code: 'overloaded',
      retryAfterMs: 100,
    });
    expect((await answers).subarray(0, errorBytes)).toEqual(Buffer.from(refused));
    expect(agent.server.requests.length).toBe(REQUESTS_IN_FLIGHT_MAX);
    expect(agent.metrics.values.get('xylem_net_over_credit_total{}')).toBe(5);
    expect(stream.status).toBe('open');
  });

  it('Responder cuts off a peer that asks for signs of life and never reads them', async () => {
    const { agent, stream } = await rawRequester();
    agent.server.handle = (incoming) => answerNow(incoming);
    stream.send(frames.encodeOpen('demand'));
    // The stream's window is closed from here on: the peer holds nothing that it does not read.
    stream.pause();
    for (let id = 0; id < 30; id++) stream.send(frames.encodeRequest(id, blockRequest()));
    const ping = frames.encodeSignal(frames.FRAME.PING);
    // Some are answered before the window is full.
    for (let i = 0; i < 3 * SMALL_FRAMES_QUEUED_MAX; i++) stream.send(ping);
    await closed(stream);
    expect(agent.metrics.values.get(VIOLATIONS)).toBe(1);
  });

  it('Responder takes any split of frames', async () => {
    const { agent, stream } = await rawRequester();
    const bytes = Buffer.concat([
      frames.encodeOpen('demand'),
      frames.encodeRequest(5, blockRequest({ index: blockIndex(3) })),
    ]);
    for (const byte of bytes) stream.send(new Uint8Array([byte]));
    await agent.server.until(() => agent.server.requests.length === 1);
    expect(agent.server.requests[0]?.request.index).toBe(3);
  });
});

describe('Requester', () => {
  const wrong: Readonly<Record<string, readonly Uint8Array[]>> = {
    'an answer to no request': [frames.encodeAnswerHead(9, ATTESTATION, 10)],
    'an error to no request': [frames.encodeError(9, { code: 'hops', retryAfterMs: 0 })],
    'a payload of 1 GiB': [head(frames.FRAME.ANSWER, 1 + frames.ANSWER_HEAD_BYTES + 2 ** 30)],
    'a REQUEST': [frames.encodeRequest(1, blockRequest())],
    'an error code that does not exist': [
      new Uint8Array([10, 0, 0, 0, 4, 0, 0, 0, 0, 77, 0, 0, 0, 0]),
    ],
    'an order that is longer than it says': [
      frames
        .encodeOrder({ digest: blockRequest().digest, indices: [blockIndex(1), blockIndex(2)] })
        .with(37, 1),
    ],
  };
  for (const [name, said] of Object.entries(wrong)) {
    it(`Requester rejects with protocol when the peer sends ${name}`, async () => {
      const { agent, outcome } = await rawResponder((stream) => {
        for (const bytes of said) stream.send(bytes);
      });
      expect(await outcome).toMatchObject({ code: 'protocol' });
      expect(agent.metrics.values.get(VIOLATIONS)).toBe(1);
    });
  }

  it('Requester rejects with protocol when an answer comes twice', async () => {
    const payload = bytesOf(1, 50);
    const twice = [frames.encodeAnswerHead(0, ATTESTATION, 50), payload];
    const { agent, outcome } = await rawResponder((stream) => {
      for (const bytes of [...twice, ...twice]) stream.send(bytes);
    });
    const answer = (await outcome) as { payload: { bytes: Uint8Array } };
    expect(answer.payload.bytes).toEqual(payload);
    expect(agent.metrics.values.get(VIOLATIONS)).toBe(1);
  });

  it('Requester rejects with unreachable when a stream is reset within a payload', async () => {
    const { agent, outcome } = await rawResponder((stream) => {
      stream.send(frames.encodeAnswerHead(0, ATTESTATION, 1000));
      stream.send(bytesOf(1, 500));
      stream.abort(new Error('gone'));
    });
    expect(await outcome).toMatchObject({ code: 'unreachable' });
    expect(agent.metrics.values.get(VIOLATIONS)).toBe(undefined);
  });

  it('Requester rejects with unreachable when the peer does not speak the protocol', async () => {
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
    await raw.start();
    const agent = await startAgent(1);
    const { answer } = agent.transport.requestBlock(hostOf(raw), blockRequest());
    await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
  });

  it('Requester rejects with unreachable when new streams are reset at once', async () => {
    // libp2p: newStream() resolves all the same, with a stream that is reset already.
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
    await raw.handle(BLOCK_PROTOCOL, () => {}, { maxInboundStreams: 1 });
    await raw.start();
    const agent = await startAgent(1);
    const { answer } = agent.transport.requestBlock(hostOf(raw), blockRequest());
    await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
  });
});

describe('TreeResponder', () => {
  const VIOLATIONS_OF_TREE = 'xylem_net_violations_total{protocol=tree}';
  const open = CALLS['open-blob'].request.encode({
    digest: blockRequest().digest,
    origin: { registry: 'r.io', repository: 'a/b' },
  });

  /**
   * An agent that never answers an OPEN, unless it is told to, and a stream of tree calls to it.
   */
  async function rawCaller(): Promise<{
    agent: Agent;
    stream: Stream;
    heard: TreeMessage[];
    /** Lets all OPENs end. */
    answer: () => void;
  }> {
    const end = Promise.withResolvers<OpenReply>();
    const never = (): Promise<never> => Promise.reject(new Error('not asked'));
    const agent = await startAgent(1, {
      join: never,
      leave: never,
      'open-blob': () => end.promise,
    });
    const connection = await dialRaw(await startRaw(), agent.host);
    const stream = await connection.newStream(TREE_PROTOCOL);
    const heard: TreeMessage[] = [];
    const parser = anyMessages(({ id, type, body }) =>
      heard.push({ id, type, body: Uint8Array.from(body) }),
    );
    stream.addEventListener('message', (event: StreamMessageEvent) => {
      parser.accept(event.data.subarray());
    });
    return {
      agent,
      stream,
      heard,
      answer: () => end.resolve({ outcome: 'no-way', isBelieved: true }),
    };
  }

  function say(stream: Stream, ...messages: readonly TreeMessage[]): void {
    for (const message of messages) for (const frame of messageFrames(message)) stream.send(frame);
  }

  /** Resolves when the agent has sent `count` messages in all. */
  async function words(
    stream: Stream,
    heard: readonly TreeMessage[],
    count: number,
  ): Promise<void> {
    while (heard.length < count) {
      await new Promise((resolve) => stream.addEventListener('message', resolve, { once: true }));
    }
  }

  const call = (id: number): TreeMessage => ({ id, type: CALLS['open-blob'].type, body: open });
  const cancel = (id: number): TreeMessage => ({ id, type: TREE.CANCEL, body: new Uint8Array() });

  const wrong: Readonly<Record<string, readonly Uint8Array[]>> = {
    'a message of 4 GiB': [head(1, 0xffff_ffff)],
    'a message that does not decode': [
      ...messageFrames({ id: 1, type: CALLS.leave.type, body: new Uint8Array([7, 0]) }),
    ],
    'an id that is in use': [...messageFrames(call(1)), ...messageFrames(call(1))],
    'a CANCEL with a body': [...messageFrames({ ...cancel(1), body: new Uint8Array(1) })],
  };
  for (const [name, said] of Object.entries(wrong)) {
    it(`TreeResponder resets a stream that brings ${name}`, async () => {
      const { agent, stream } = await rawCaller();
      for (const bytes of said) stream.send(bytes);
      await closed(stream);
      expect(agent.metrics.values.get(VIOLATIONS_OF_TREE)).toBe(1);
    });
  }

  it('TreeResponder answers from memory while registry calls take all places', async () => {
    const { stream, heard, answer } = await rawCaller();
    for (let id = 0; id < REGISTRY_CALLS_MAX; id++) say(stream, call(id));
    const leave = CALLS.leave.request.encode({ digests: [] });
    say(stream, { id: 500, type: CALLS.leave.type, body: leave });
    await words(stream, heard, 1);
    const refused = treeError.encode({ code: 'refused', retryAfterMs: 0 });
    expect(heard).toEqual([{ id: 500, type: TREE.ERROR, body: refused }]);
    answer();
    await words(stream, heard, 1 + REGISTRY_CALLS_MAX);
  });

  it('TreeResponder says that it lives while it works', async () => {
    const { stream, heard } = await rawCaller();
    say(stream, call(0), { id: 9, type: TREE.PING, body: new Uint8Array() });
    await words(stream, heard, 1);
    expect(heard).toEqual([{ id: 9, type: TREE.PONG, body: new Uint8Array() }]);
  });

  /** The first frame of a request of two. */
  function firstFrame(id: number, type: number = CALLS.join.type): Uint8Array {
    const [frame] = messageFrames({ id, type, body: new Uint8Array(65_537) });
    return defined(frame, 'a frame');
  }

  it.each([
    ['a second long request before the first has ended', [firstFrame(1), firstFrame(2)]],
    [
      'a longer request than its kind may have',
      [firstFrame(1, CALLS['open-blob'].type), firstFrame(1, CALLS['open-blob'].type)],
    ],
  ])('TreeResponder resets a stream that brings %s', async (_, said) => {
    const { agent, stream } = await rawCaller();
    for (const bytes of said) stream.send(bytes);
    await closed(stream);
    expect(agent.metrics.values.get(VIOLATIONS_OF_TREE)).toBe(1);
  });

  it.each([
    ['a message', firstFrame(1)],
    ['a frame', firstFrame(1).subarray(0, 100)],
    ['the head of a frame', firstFrame(1).subarray(0, 2)],
  ])(
    'TreeResponder resets a stream on which %s does not end, after ten seconds',
    async (_, said) => {
      const clock = new ManualClock();
      const agent = await startAgent(1, {}, { clock });
      const connection = await dialRaw(await startRaw(), agent.host);
      const stream = await connection.newStream(TREE_PROTOCOL);
      const heard: TreeMessage[] = [];
      const parser = anyMessages((message) => heard.push(message));
      stream.addEventListener('message', (event: StreamMessageEvent) => {
        parser.accept(event.data.subarray());
      });
      say(stream, { id: 9, type: TREE.PING, body: new Uint8Array() });
      await words(stream, heard, 1);
      stream.send(said);
      // It comes behind the unfinished message, so only time tells that it has come.
      await new Promise((resolve) => setTimeout(resolve, 100));
      clock.advance(REQUEST_ARRIVAL_MS_MAX);
      await closed(stream);
      expect(agent.metrics.values.get(VIOLATIONS_OF_TREE)).toBe(1);
    },
  );

  it('TreeResponders bound the bytes of unfinished requests of all peers together', async () => {
    const agent = await startAgent(1, {});
    const streams: Stream[] = [];
    const begin = messageFrames({
      id: 1,
      type: CALLS['host-preheat'].type,
      body: new Uint8Array(4 * 2 ** 20),
    });
    const frames = [...begin].slice(0, -1);
    const perStream = frames.length * 65_536;
    const fits = Math.floor(UNFINISHED_BYTES_MAX / perStream);
    for (let i = 0; i <= fits; i++) {
      const connection = await dialRaw(await startRaw(), agent.host);
      streams.push(await connection.newStream(TREE_PROTOCOL));
    }
    const anyClosed = Promise.race(streams.map((stream) => closed(stream)));
    for (const stream of streams) {
      for (const frame of frames) {
        if (!stream.send(frame)) await stream.onDrain().catch(() => {});
      }
    }
    await anyClosed;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(streams.filter(({ status }) => status === 'open').length).toBeGreaterThanOrEqual(
      fits - 1,
    );
    expect(agent.metrics.values.get(VIOLATIONS_OF_TREE)).toBeGreaterThanOrEqual(1);
  });

  it('TreeResponder refuses the 33rd call of a kind with overloaded, and goes on', async () => {
    const { stream, heard, answer } = await rawCaller();
    for (let id = 0; id <= REGISTRY_CALLS_MAX; id++) say(stream, call(id));
    await words(stream, heard, 1);
    const error = treeError.encode({ code: 'overloaded', retryAfterMs: 100 });
    expect(heard).toEqual([{ id: REGISTRY_CALLS_MAX, type: TREE.ERROR, body: error }]);
    answer();
    await words(stream, heard, 1 + REGISTRY_CALLS_MAX);
    expect(heard.slice(1).map(({ type }) => type)).toEqual(Array(REGISTRY_CALLS_MAX).fill(TREE.OK));
  });

  it('TreeResponder answers a CANCEL once, and counts the call until it has ended', async () => {
    const { stream, heard, answer } = await rawCaller();
    for (let id = 0; id < REGISTRY_CALLS_MAX; id++) say(stream, call(id));
    say(stream, cancel(0), cancel(0), cancel(77), call(99));
    await words(stream, heard, 2);
    const cancelled = treeError.encode({ code: 'cancelled', retryAfterMs: 0 });
    const overloaded = treeError.encode({ code: 'overloaded', retryAfterMs: 100 });
    expect(heard).toEqual([
      { id: 0, type: TREE.ERROR, body: cancelled },
      { id: 99, type: TREE.ERROR, body: overloaded },
    ]);
    answer();
    await words(stream, heard, 2 + REGISTRY_CALLS_MAX - 1);
    expect(heard.slice(2).map(({ id }) => id)).toEqual(
      Array.from({ length: REGISTRY_CALLS_MAX - 1 }, (_, i) => i + 1),
    );
  });
});
