import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import * as codec from '../src/net/tree-codec.ts';
import type { Libp2pTransport } from '../src/net/libp2p-transport.ts';
import type { HostAddress } from '../src/tree/messages.ts';
import { defined } from '../src/util/assert.ts';
import { hostName, joinMaker, ownerCore } from './join-peer.ts';
import { benchTransport } from './net-peer.ts';
import type { BenchRow } from './rows.ts';

/**
 * `connections`: hosts that are connected, each asking for its share of the `hosts` that join, one call after the other.
 * `many`: hosts that join where no network is between.
 */
const SIZES = {
  full: { connections: 64, hosts: 1_000, many: 10_000, rounds: 5 },
  smoke: { connections: 2, hosts: 4, many: 8, rounds: 1 },
};

/** JOINs before anything is measured: the compiler has then settled. */
const WARM_JOINS = { full: 3_000, smoke: 2 };

interface Setup {
  readonly owner: ChildProcess;
  readonly host: HostAddress;
  readonly clients: readonly Libp2pTransport[];
}

const NO_SIGNAL = new AbortController().signal;

/** What hosts that start the default image cost the owner of a quarter of its trees. */
export async function benchJoin(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  const { connections, hosts, many, rounds } = SIZES[size];
  return [
    ...[hosts, many].map((count) => benchWithoutNetwork(count, WARM_JOINS[size])),
    ...(await withOwner(connections, async (setup) => {
      const first = await costOf(setup, connections, join(setup));
      await costOf(setup, WARM_JOINS[size], join(setup));
      const joins = await lowest(rounds, () => costOf(setup, hosts, join(setup)));
      const small = await lowest(rounds, () => costOf(setup, hosts, stat(setup)));
      return [
        row(`first JOIN on each of ${connections} connections, all in`, first),
        row(`JOIN, all in`, joins),
        row(`small call (STAT), all in`, small),
      ];
    })),
  ];
}

/** Request read, places found, reply written. */
function benchWithoutNetwork(count: number, warmCount: number): BenchRow {
  run(warmCount);
  const before = process.cpuUsage();
  const places = run(count);
  const { user, system } = process.cpuUsage(before);
  return row(
    `JOIN of ${places} places, without the network, ${count} hosts`,
    (user + system) / 1e3 / count,
  );
}

/** Joins so many hosts to a new owner; how many places each got. */
function run(count: number): number {
  const self = { peer: hostName(2e9), addresses: ['/ip4/10.1.2.3/tcp/19147'] };
  const core = ownerCore(self);
  const requestOf = joinMaker(self.peer);
  let places = 0;
  for (let i = 0; i < count; i++) {
    const request = codec.joinRequest.decode(codec.joinRequest.encode(requestOf(i)));
    const reply = core.join(request.host.peer, request, i);
    core.take();
    codec.joinReply.encode(reply);
    places = reply.places.length;
  }
  return places;
}

async function withOwner<T>(connections: number, use: (setup: Setup) => Promise<T>): Promise<T> {
  const owner = fork(fileURLToPath(new URL('join-peer.ts', import.meta.url)), ['--bench-owner']);
  const clients = Array.from({ length: connections }, () => benchTransport());
  try {
    const [host] = (await once(owner, 'message')) as [HostAddress];
    const address = defined(host.addresses[0], 'the owner listens');
    for (const client of clients) {
      await client.start();
      await client.identify(address, NO_SIGNAL);
    }
    return await use({ owner, host, clients });
  } finally {
    await Promise.all(clients.map((client) => client.stop()));
    owner.disconnect();
    await once(owner, 'exit');
  }
}

type Call = (client: Libp2pTransport, number: number) => Promise<unknown>;

function join({ host }: Setup): Call {
  const requestOf = joinMaker(host.peer);
  return (client, number) => client.join(host, requestOf(number), NO_SIGNAL);
}

function stat({ host }: Setup): Call {
  const { digest } = defined(joinMaker(host.peer)(0).blobs[0], 'a layer').blob;
  const request = { digest, origin: { registry: 'registry.example', repository: 'application' } };
  return (client) => client.stat(host, request, NO_SIGNAL);
}

/** CPU milliseconds of a new owner per call. */
async function costOf(setup: Setup, count: number, call: Call): Promise<number> {
  const before = await cpuSeconds(setup.owner, 'new');
  let next = 0;
  await Promise.all(
    setup.clients.map(async (client) => {
      while (next < count) await call(client, next++);
    }),
  );
  return (1000 * ((await cpuSeconds(setup.owner, 'cpu')) - before)) / count;
}

/** Of several rounds the one that the rest of the machine disturbed least. */
async function lowest(rounds: number, measure: () => Promise<number>): Promise<number> {
  let best = Infinity;
  for (let i = 0; i < rounds; i++) best = Math.min(best, await measure());
  return best;
}

async function cpuSeconds(owner: ChildProcess, message: 'new' | 'cpu'): Promise<number> {
  owner.send(message);
  const [{ cpuSeconds: seconds }] = (await once(owner, 'message')) as [{ cpuSeconds: number }];
  return seconds;
}

function row(what: string, value: number): BenchRow {
  return { bench: 'join', what, value, unit: 'CPU ms' };
}
