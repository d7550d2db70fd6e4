import { connect, type Socket } from 'node:net';
import type { Connection, Stream } from '@libp2p/interface';
import { multiaddr } from '@multiformats/multiaddr';
import type { Libp2p } from 'libp2p';
import { afterEach, describe, expect, it } from 'vitest';
import { ADMISSION_PROTOCOL } from '../../../src/net/admission/admission.ts';
import {
  ADMISSION,
  encodeAdmission,
  refusedBody,
} from '../../../src/net/admission/admission-codec.ts';
import * as frames from '../../../src/net/wire/frames.ts';
import {
  ADDRESS_FAILURES_MAX,
  ADMISSION_MS,
  BAN_MS_MIN,
  UNADMITTED_PER_ADDRESS_MAX,
} from '../../../src/net/limits.ts';
import { BLOCK_PROTOCOL } from '../../../src/net/blocks/requester-link.ts';
import { TREE_PROTOCOL } from '../../../src/net/calls/call-link.ts';
import { messageFrames } from '../../../src/net/calls/call-message.ts';
import { CALLS } from '../../../src/net/calls/call-table.ts';
import { WIRE_VERSION } from '../../../src/net/wire/version.ts';
import { silentLogger, type Logger } from '../../../src/runtime/logger.ts';
import { defined } from '../../../src/util/assert.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import {
  admitRaw,
  closed,
  dialRaw,
  dialUnadmitted,
  hostOf,
  received,
  startRaw,
  stopRaws,
} from '../kit/raw-peer.ts';
import {
  CLUSTER_KEYS,
  answerNow,
  blockRequest,
  startAgent,
  stopAgents,
  type Agent,
} from '../kit/transports.ts';

const [OLD, NEW, WRONG] = [1, 2, 3].map((byte) => new Uint8Array(32).fill(byte)) as [
  Uint8Array,
  Uint8Array,
  Uint8Array,
];
const NO_SIGNAL = new AbortController().signal;
const REFUSED = encodeAdmission({
  type: ADMISSION.REFUSED,
  body: refusedBody.encode(WIRE_VERSION),
});
const result = (name: string): string => `xylem_admission_total{result=${name}}`;

const sockets = new Set<Socket>();
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await stopRaws();
  await stopAgents();
});

/** An agent that answers blocks. */
async function serving(
  number: number,
  init: Parameters<typeof startAgent>[2] = {},
): Promise<Agent> {
  const agent = await startAgent(number, undefined, init);
  agent.server.handle = (incoming) => answerNow(incoming, 100);
  return agent;
}

async function read(from: Agent, to: Agent): Promise<void> {
  (await from.transport.requestBlock(to.host, blockRequest()).answer).payload.release();
}

function gone(connection: Connection): Promise<void> {
  if (connection.status !== 'open') return Promise.resolve();
  return new Promise((resolve) => connection.addEventListener('close', () => resolve()));
}

/** Everything that a peer gets to read on a new stream on which it says this. */
async function told(
  connection: Connection,
  protocol: string,
  bytes: readonly Uint8Array[],
): Promise<Buffer> {
  try {
    const stream = await connection.newStream(protocol);
    const all = received(stream, () => false);
    for (const each of bytes) stream.send(each);
    return await all;
  } catch {
    return Buffer.alloc(0);
  }
}

/** A connection is nothing that can be shown in a failure. */
function outcomeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'done',
    () => 'failed',
  );
}

function nothingWasTold({ server, transport }: Agent): void {
  expect(server.requests).toEqual([]);
  expect(server.gone).toEqual([]);
  expect(transport.peers()).toEqual([]);
}

describe('Admission', () => {
  it('Admission admits hosts with the same key, both ways over one connection', async () => {
    const [one, two] = [await serving(1), await serving(2)];
    await read(one, two);
    await read(two, one);
    for (const agent of [one, two]) expect(agent.metrics.values.get(result('admitted'))).toBe(1);
    expect(one.transport.peers()).toEqual([two.host.peer]);
    expect(two.transport.peers()).toEqual([one.host.peer]);
  });

  it('Admission keeps hosts with different keys apart, and logs the host, no secret', async () => {
    const lines: string[] = [];
    const tell: Logger['warn'] = (fields, text) =>
      void lines.push(JSON.stringify({ ...fields, text }));
    const logger = { ...silentLogger, debug: tell, info: tell, warn: tell };
    const [one, two] = [
      await startAgent(1, undefined, { clusterKeys: () => [WRONG], logger }),
      await startAgent(2, undefined, { logger }),
    ];
    const { answer } = one.transport.requestBlock(two.host, blockRequest());
    await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
    const address = defined(two.host.addresses[0], 'it listens');
    await expect(
      two.transport.identify(defined(one.host.addresses[0], 'it listens'), NO_SIGNAL),
    ).rejects.toThrow(/wrong-key/);
    for (const agent of [one, two]) nothingWasTold(agent);
    expect(one.metrics.values.get(result('wrong-key'))).toBe(2);
    expect(lines.join('\n')).toContain(address);
    expect(lines.join('\n')).toContain('no cluster key in common');
    expect(lines.join('\n')).not.toMatch(/030303|AwMD|\\u0003/);
  });

  it.each(['dialled', 'dials'])(
    'Admission refuses a host of another version that %s, in one line that names both versions',
    async (direction) => {
      const lines: string[] = [];
      const tell: Logger['warn'] = (fields, text) =>
        void lines.push(JSON.stringify({ ...fields, text }));
      const agent = await startAgent(1, undefined, { logger: { ...silentLogger, warn: tell } });
      const raw = await startRaw(['/ip4/127.0.0.1/tcp/0'], { admission: 'left alone' });
      const refused = encodeAdmission({ type: ADMISSION.REFUSED, body: refusedBody.encode(77) });
      await raw.handle(ADMISSION_PROTOCOL, (stream) => void stream.send(refused));
      await raw.start();
      if (direction === 'dialled') {
        const { answer } = agent.transport.requestBlock(hostOf(raw), blockRequest());
        await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
      } else {
        // What follows the version is of no form that this agent knows.
        const hello = encodeAdmission({
          type: ADMISSION.HELLO,
          body: new Uint8Array([77, 0, 1, 2, 3]),
        });
        const connection = await dialUnadmitted(raw, agent.host);
        expect(await told(connection, ADMISSION_PROTOCOL, [hello])).toEqual(Buffer.from(REFUSED));
        await gone(connection);
      }
      await agent.metrics.until(result('version'), 1);
      expect(lines).toHaveLength(1);
      expect(lines[0]).toContain('version 77 of the wire protocol');
      expect(lines[0]).toContain(`this agent version ${WIRE_VERSION}`);
      nothingWasTold(agent);
    },
  );

  it('Libp2pTransport.identify() names the answering host only when it has the key', async () => {
    const [one, two] = [await startAgent(1), await startAgent(2)];
    const stranger = await startAgent(3, undefined, { clusterKeys: () => [WRONG] });
    const addressOf = (agent: Agent): string => defined(agent.host.addresses[0], 'it listens');
    expect(await one.transport.identify(addressOf(two), NO_SIGNAL)).toBe(two.host.peer);
    const wrong = one.transport.identify(addressOf(stranger), NO_SIGNAL);
    await expect(wrong).rejects.toMatchObject({ code: 'wrong-key' });
  });

  it('Admission accepts another dial of an admitted host, and dials it no more', async () => {
    const lines: string[] = [];
    const tell: Logger['warn'] = (_fields, text) => void lines.push(text);
    const [one, two] = [
      await serving(1, { logger: { ...silentLogger, warn: tell } }),
      await startAgent(2),
    ];
    const address = defined(two.host.addresses[0], 'it listens');
    const dials = (): number =>
      one.metrics.values.get('xylem_net_connected_total{direction=outbound}') ?? 0;
    await one.transport.identify(address, NO_SIGNAL);
    for (let i = 0; i < 5; i++) await one.transport.identify(address, NO_SIGNAL);
    expect(dials()).toBe(1);
    // The other side knows of no address that the connection leads to: it dials, and closes one of
    // the two.
    const back = defined(one.host.addresses[0], 'it listens');
    for (let i = 0; i < ADDRESS_FAILURES_MAX + 5; i++) {
      expect(await two.transport.identify(back, NO_SIGNAL)).toBe(one.host.peer);
    }
    expect(lines).toEqual([]);
    for (const { metrics } of [one, two]) {
      expect(metrics.values.get(result('refused'))).toBeUndefined();
      expect(metrics.values.get(result('protocol'))).toBeUndefined();
    }
    await read(two, one);
    await read(await startAgent(3), one);
  });

  it('Admission tells a peer with a wrong key one word, nothing on another protocol', async () => {
    const agent = await serving(1);
    const raw = await startRaw();
    const hello = Buffer.concat([
      new Uint8Array([44, 0, 0, 0, 1, WIRE_VERSION, 0]),
      new Uint8Array(32),
      new Uint8Array([1]),
      new Uint8Array(8),
    ]);
    const connection = await dialUnadmitted(raw, agent.host);
    expect(await told(connection, ADMISSION_PROTOCOL, [hello])).toEqual(Buffer.from(REFUSED));
    await gone(connection);
    expect(agent.metrics.values.get(result('wrong-key'))).toBe(1);
    nothingWasTold(agent);
  });

  it.each([
    [BLOCK_PROTOCOL, [frames.encodeOpen('demand'), frames.encodeRequest(0, blockRequest())]],
    [
      TREE_PROTOCOL,
      [...messageFrames({ id: 0, type: CALLS['open-blob'].type, body: new Uint8Array(40) })],
    ],
  ])('Admission cuts off a peer that goes straight to %s', async (protocol, bytes) => {
    const agent = await serving(1);
    const connection = await dialUnadmitted(await startRaw(), agent.host);
    expect(await told(connection, protocol, bytes)).toHaveLength(0);
    await gone(connection);
    expect(agent.metrics.values.get(result('protocol'))).toBe(1);
    expect(agent.metrics.values.get('xylem_net_violations_total{protocol=tree}')).toBe(undefined);
    nothingWasTold(agent);
  });

  it('Admission refuses a recorded proof on a new connection of the same host', async () => {
    const agent = await serving(1);
    const raw = await startRaw();
    const first = await dialUnadmitted(raw, agent.host);
    const recorded = await recordAdmission(raw, first);
    await first.close();
    const second = await dialUnadmitted(raw, agent.host);
    const stream = await second.newStream(ADMISSION_PROTOCOL);
    const answers = received(stream, () => false);
    for (const bytes of recorded) stream.send(bytes);
    expect((await answers).subarray(-REFUSED.length)).toEqual(Buffer.from(REFUSED));
    expect(agent.metrics.values.get(result('wrong-key'))).toBe(1);
  });

  it('Admission refuses a peer that has the agent itself make the proof', async () => {
    // The agent dials Eve, who dials the agent, and passes on each side what the other one says.
    const agent = await serving(1);
    const eve = await startRaw(['/ip4/127.0.0.1/tcp/0'], { admission: 'left alone' });
    const said: Buffer[] = [];
    await eve.handle(ADMISSION_PROTOCOL, (stream) => void relay(eve, agent, stream, said));
    await eve.start();
    const { answer } = agent.transport.requestBlock(hostOf(eve), blockRequest());
    await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
    await agent.metrics.until(result('wrong-key'), 2);
    expect(said.at(-1)).toEqual(Buffer.from(REFUSED));
    expect(agent.metrics.values.get(result('admitted'))).toBe(undefined);
  });

  it.each([
    ['does not know the protocol', undefined],
    ['says it admits without a proof', (stream: Stream) => sendAdmitted(stream)],
  ])('Admission asks nothing of a dialled host that %s', async (_, say) => {
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0'], { admission: 'left alone' });
    if (say !== undefined) await raw.handle(ADMISSION_PROTOCOL, say);
    const asked: string[] = [];
    await raw.handle(BLOCK_PROTOCOL, ({ protocol }) => void asked.push(protocol));
    await raw.start();
    const agent = await startAgent(1);
    const { answer } = agent.transport.requestBlock(hostOf(raw), blockRequest());
    await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
    expect(asked).toEqual([]);
    expect(agent.metrics.values.get(result('protocol'))).toBe(1);
  });

  it('Admission gives a dialled host up that says nothing, and asks nothing of it', async () => {
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0'], { admission: 'left alone' });
    const { promise: begun, resolve } = Promise.withResolvers<void>();
    await raw.handle(ADMISSION_PROTOCOL, () => resolve());
    const asked: string[] = [];
    await raw.handle(BLOCK_PROTOCOL, ({ protocol }) => void asked.push(protocol));
    await raw.start();
    const clock = new ManualClock();
    const agent = await startAgent(1, undefined, { clock });
    const { answer } = agent.transport.requestBlock(hostOf(raw), blockRequest());
    await begun;
    clock.advance(ADMISSION_MS);
    await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
    expect(asked).toEqual([]);
  });

  it('Admission closes a connection on which nothing was proved in time', async () => {
    const clock = new ManualClock();
    const agent = await serving(1, { clock });
    const connection = await dialUnadmitted(await startRaw(), agent.host);
    const stream = await connection.newStream(ADMISSION_PROTOCOL);
    clock.advance(ADMISSION_MS);
    await Promise.all([closed(stream), gone(connection)]);
    expect(agent.metrics.values.get(result('timeout'))).toBe(1);
    nothingWasTold(agent);
  });

  it('Admission refuses a second handshake on a connection while one is in flight', async () => {
    const agent = await serving(1);
    const raw = await startRaw();
    const connection = await dialUnadmitted(raw, agent.host);
    const first = await connection.newStream(ADMISSION_PROTOCOL);
    expect(await outcomeOf(admitRaw(raw, connection, CLUSTER_KEYS))).toBe('failed');
    expect(first.status).toBe('open');
    nothingWasTold(agent);
  });

  it('Admission closes an admitted connection after a failed handshake of its peer', async () => {
    const agent = await serving(1);
    const raw = await startRaw();
    const connection = await dialRaw(raw, agent.host);
    expect(agent.transport.peers()).toEqual([hostOf(raw).peer]);
    expect(await admitRaw(raw, connection, CLUSTER_KEYS)).toBe('admitted');
    expect(await admitRaw(raw, connection, [WRONG])).toBe('wrong-key');
    await gone(connection);
    expect(agent.transport.peers()).toEqual([]);
  });
});

describe('Door', () => {
  it('Door turns a peer away for a while whose proof was wrong', async () => {
    const clock = new ManualClock();
    const agent = await serving(1, { clock });
    const raw = await startRaw([], { seed: new Uint8Array(32).fill(99) });
    const connection = await dialUnadmitted(raw, agent.host);
    expect(await admitRaw(raw, connection, [WRONG])).toBe('wrong-key');
    await connection.close();
    expect(await outcomeOf(dialRaw(raw, agent.host))).toBe('failed');
    expect(agent.metrics.values.get(result('refused'))).toBe(1);
    clock.advance(BAN_MS_MIN);
    await dialRaw(raw, agent.host);
    expect(agent.metrics.values.get(result('admitted'))).toBe(1);
  });

  it('Door turns away only the address from which too many admissions failed', async () => {
    const clock = new ManualClock();
    const agent = await serving(1, { clock });
    let tries = 0;
    for (; agent.metrics.values.get(result('refused')) === undefined; tries++) {
      const raw = await startRaw([], { from: '127.0.0.2' });
      const connection = await dialUnadmitted(raw, agent.host).catch(() => undefined);
      if (connection !== undefined) await admitRaw(raw, connection, [WRONG]);
      await raw.stop();
    }
    expect(tries).toBeGreaterThan(ADDRESS_FAILURES_MAX);
    const raw = await startRaw([], { from: '127.0.0.2' });
    expect(await outcomeOf(dialRaw(raw, agent.host))).toBe('failed');
    await read(await startAgent(2), agent);
    clock.advance(BAN_MS_MIN);
    await dialRaw(raw, agent.host);
  });

  it('Door cuts off a peer that talks too much before its admission', async () => {
    const agent = await serving(1, { clock: new ManualClock() });
    const connection = await dialUnadmitted(await startRaw(), agent.host);
    let tries = 0;
    for (; connection.status === 'open'; tries++) {
      await connection.newStream(`/none/${'x'.repeat(500)}`).catch(() => {});
    }
    expect(tries).toBeLessThan(100);
    nothingWasTold(agent);
  });

  it('Door bounds strangers by address; admitted hosts go on and new ones come', async () => {
    const [agent, host] = [await serving(1), await startAgent(2)];
    await read(host, agent);
    const port = Number(agent.host.addresses[0]?.split('/').at(-1));
    const flood = 3 * UNADMITTED_PER_ADDRESS_MAX;
    let cut = 0;
    const { promise: enough, resolve } = Promise.withResolvers<void>();
    for (let i = 0; i < flood; i++) {
      const socket = connect({ port, host: '127.0.0.1', localAddress: '127.0.0.3' });
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        if (++cut === flood - UNADMITTED_PER_ADDRESS_MAX) resolve();
      });
    }
    await Promise.all(Array.from({ length: 50 }, () => read(host, agent)));
    await enough;
    await read(await startAgent(3), agent);
    await read(host, agent);
    expect(host.server.gone).toEqual([]);
  });
});

describe('Admission with changing keys', () => {
  it('Admission proves connections anew when their key is taken away, and loses none', async () => {
    const clock = new ManualClock();
    const keys = { one: [OLD], two: [OLD] };
    const one = await serving(1, { clock, clusterKeys: () => keys.one });
    const two = await serving(2, { clock, clusterKeys: () => keys.two });
    await read(one, two);
    const phases: readonly (readonly ['one' | 'two', Uint8Array[], proofs: number])[] = [
      ['one', [NEW, OLD], 1],
      ['two', [NEW, OLD], 1],
      ['one', [NEW], 2],
      ['two', [NEW], 2],
    ];
    for (const [name, next, proofs] of phases) {
      const reading = Promise.all(Array.from({ length: 20 }, () => read(one, two)));
      keys[name] = next;
      clock.advance(5_000);
      await reading;
      await read(two, one);
      for (const { metrics } of [one, two]) {
        await metrics.until(result('admitted'), proofs);
        expect(metrics.values.get(result('admitted'))).toBe(proofs);
      }
    }
    for (const { server, metrics } of [one, two]) {
      expect(server.gone).toEqual([]);
      const made = ['inbound', 'outbound'].map(
        (direction) => metrics.values.get(`xylem_net_connected_total{direction=${direction}}`) ?? 0,
      );
      expect(made[0]! + made[1]!).toBe(1);
    }
    const [late, fresh] = [
      await startAgent(3, undefined, { clusterKeys: () => [OLD] }),
      await startAgent(4, undefined, { clusterKeys: () => [NEW] }),
    ];
    await expect(read(late, one)).rejects.toMatchObject({ code: 'unreachable' });
    await read(fresh, one);
  });

  it('Admission closes the connections of hosts that have only the removed key', async () => {
    const clock = new ManualClock();
    let keys = [NEW, OLD];
    const agent = await serving(1, { clock, clusterKeys: () => keys });
    const thief = await serving(2, { clusterKeys: () => [OLD] });
    const host = await serving(3, { clusterKeys: () => [NEW] });
    await read(thief, agent);
    await read(host, agent);
    keys = [NEW];
    clock.advance(5_000);
    await agent.server.until(() => agent.server.gone.length > 0);
    expect(agent.server.gone).toEqual([thief.host.peer]);
    expect(agent.transport.peers()).toEqual([host.host.peer]);
    await read(host, agent);
  });
});

/** What a host with the key says in its handshake. */
async function recordAdmission(
  raw: Libp2p,
  connection: Connection,
): Promise<readonly Uint8Array[]> {
  const recorded: Uint8Array[] = [];
  const open = connection.newStream.bind(connection);
  connection.newStream = async (...args) => {
    const stream = await open(...args);
    const send = stream.send.bind(stream);
    stream.send = (bytes) => {
      recorded.push(bytes.subarray().slice());
      return send(bytes);
    };
    return stream;
  };
  expect(await admitRaw(raw, connection, CLUSTER_KEYS)).toBe('admitted');
  expect(recorded).toHaveLength(2);
  return recorded;
}

/** Connects a handshake that the agent began with one that Eve begins with the agent. */
async function relay(eve: Libp2p, agent: Agent, inbound: Stream, said: Buffer[]): Promise<void> {
  // A connection of its own: the one that the agent made serves the agent's handshake.
  const address = defined(agent.host.addresses[0], 'it listens');
  const connection = await eve.dial(multiaddr(`${address}/p2p/${agent.host.peer}`), {
    force: true,
  });
  const outbound = await connection.newStream(ADMISSION_PROTOCOL);
  outbound.addEventListener('message', ({ data }) => {
    said.push(Buffer.from(data.subarray()));
    inbound.send(data);
  });
  inbound.addEventListener('message', ({ data }) => void outbound.send(data));
}

function sendAdmitted(stream: Stream): void {
  stream.send(encodeAdmission({ type: ADMISSION.ADMITTED, body: new Uint8Array(33) }));
}
