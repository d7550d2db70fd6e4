import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { CALLS } from '../src/net/calls/call-table.ts';
import type { Libp2pTransport } from '../src/net/libp2p-transport.ts';
import type { HostAddress } from '../src/tree/messages.ts';
import { defined } from '../src/util/assert.ts';
import { hostName, joinMaker, ownerCore } from './join-peer.ts';
import { benchTransport } from './net-peer.ts';
import type { BenchRow } from './rows.ts';

/**
 * `connections`: connected hosts; each sends its share of the JOINs of `hosts` hosts, one call
 * after the other. `many`: hosts that join without a network.
 */
const SIZES = {
  full: { connections: 64, hosts: 1_000, many: 10_000, rounds: 5 },
  smoke: { connections: 2, hosts: 4, many: 8, rounds: 1 },
};

/** JOINs before the first measurement: the compiler has then settled. */
const WARM_JOINS = { full: 3_000, smoke: 2 };

interface Setup {
  readonly owner: ChildProcess;
  readonly host: HostAddress;
  readonly clients: readonly Libp2pTransport[];
}

const NO_SIGNAL = new AbortController().signal;

/**
 * Measures the cost of hosts that start the default image to the owner of a quarter of its trees.
 */
export async function benchJoin(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  const { connections, hosts, many, rounds } = SIZES[size];
  return [
    ...(await benchWithoutNetwork(hosts, rounds)),
    ...(await benchWithoutNetwork(many, 1)),
    ...(await withOwner(async (owner) => {
      const setup = await withClients(owner, connections);
      await costOf(setup, WARM_JOINS[size], join(setup));
      const joins = await lowest(rounds, () => costOf(setup, hosts, join(setup)));
      const small = await lowest(rounds, () => costOf(setup, hosts, open(setup)));
      const late = await withClients(owner, connections);
      const first = await costOf(late, connections, join(late));
      return [
        row('JOIN, all in', joins),
        row(`first JOIN on each of ${connections} connections, all in`, first),
        row('small call (OPEN), all in', small),
      ];
    })),
  ];
}

/** Request made and read, places found, reply written. */
async function benchWithoutNetwork(count: number, rounds: number): Promise<BenchRow[]> {
  let places = 0;
  const cost = await lowest(rounds, () => {
    const before = process.cpuUsage();
    places = run(count);
    const { user, system } = process.cpuUsage(before);
    return Promise.resolve((user + system) / 1e3 / count);
  });
  return [row(`JOIN of ${places} places, without the network, ${count} hosts`, cost)];
}

/** Joins `count` hosts to a new owner; returns how many places each got. */
function run(count: number): number {
  const self = { peer: hostName(2e9), addresses: ['/ip4/10.1.2.3/tcp/19147'] };
  const core = ownerCore(self);
  const requestOf = joinMaker(self.peer);
  let places = 0;
  for (let i = 0; i < count; i++) {
    const request = CALLS.join.request.decode(CALLS.join.request.encode(requestOf(i)));
    const reply = core.join(request.host.peer, request, i);
    core.take();
    CALLS.join.reply.encode(reply);
    places = reply.places.length;
  }
  return places;
}

interface Owner {
  readonly process: ChildProcess;
  readonly host: HostAddress;
  /** All started clients. */
  readonly clients: Libp2pTransport[];
}

async function withOwner<T>(use: (owner: Owner) => Promise<T>): Promise<T> {
  const owner = fork(fileURLToPath(new URL('join-peer.ts', import.meta.url)), ['--bench-owner']);
  const clients: Libp2pTransport[] = [];
  try {
    const [host] = (await once(owner, 'message')) as [HostAddress];
    return await use({ process: owner, host, clients });
  } finally {
    await Promise.all(clients.map((client) => client.stop()));
    owner.disconnect();
    await once(owner, 'exit');
  }
}

/** Connects hosts that know the owner's identity and have sent no request yet. */
async function withClients(owner: Owner, count: number): Promise<Setup> {
  const address = defined(owner.host.addresses[0], 'the owner listens');
  const clients = Array.from({ length: count }, () => benchTransport());
  owner.clients.push(...clients);
  for (const client of clients) {
    await client.start();
    await client.identify(address, NO_SIGNAL);
  }
  return { owner: owner.process, host: owner.host, clients };
}

type Call = (client: Libp2pTransport, number: number) => Promise<unknown>;

function join({ host }: Setup): Call {
  const requestOf = joinMaker(host.peer);
  return (client, number) => client.call(host, 'join', requestOf(number), NO_SIGNAL);
}

function open({ host }: Setup): Call {
  const { digest } = defined(joinMaker(host.peer)(0).blobs[0], 'a layer').blob;
  const request = { digest, origin: { registry: 'registry.example', repository: 'application' } };
  return (client) => client.call(host, 'open-blob', request, NO_SIGNAL);
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

/** The result of the round that the rest of the machine disturbed least. */
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
