import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ConnectionBound } from '../../../src/agent/admin/connection-bound.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const HEAD = 'GET / HTTP/1.1\r\nhost: a\r\n\r\n';
const LIMIT = { timeout: 5_000, interval: 5 };

let server: Server;
let bound: ConnectionBound;
let clock: ManualClock;
let handle: (request: IncomingMessage, response: ServerResponse) => void;
let clients: Socket[];

beforeEach(async () => {
  clients = [];
  handle = (_, response) => response.end('x');
  server = createServer();
  clock = new ManualClock();
  bound = new ConnectionBound({ server, clock }, { connectionsMax: 3, connectionsAtOnceMax: 8 });
  server.on('request', (request, response) => handle(request, response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterEach(() => {
  for (const client of clients) client.destroy();
  server.closeAllConnections();
  server.close();
});

/** A connection that the server has accepted. */
async function open(): Promise<Socket> {
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  clients.push(client);
  client.on('error', () => {});
  await Promise.all([once(client, 'connect'), once(server, 'connection')]);
  return client.resume();
}

const openOnes = (): readonly number[] =>
  clients.flatMap((client, at) => (client.closed ? [] : [at]));

/** Opens one more, and lets the time pass that connections have. */
async function openOneMore(): Promise<void> {
  await open();
  clock.advance(250);
}

describe('ConnectionBound', () => {
  it('lets the connection that has been idle for longest go for a new one', async () => {
    for (let at = 0; at < 3; at++) await open();
    clock.advance(250);
    // The first one has asked since.
    clients[0]?.write(HEAD);
    await once(clients[0] as Socket, 'data');
    await openOneMore();
    await expect.poll(openOnes, LIMIT).toEqual([0, 2, 3]);
    await openOneMore();
    await expect.poll(openOnes, LIMIT).toEqual([0, 3, 4]);
  });

  it('gives each new connection the time to ask', async () => {
    for (let at = 0; at < 3; at++) await open();
    clock.advance(200);
    for (let at = 0; at < 2; at++) await open();
    expect(clock.delays).toEqual([250]);
    clock.advance(249);
    await open();
    // Those of now, and one that is older but not too many.
    clock.advance(1);
    await expect.poll(openOnes, LIMIT).toEqual([3, 4, 5]);
  });

  it('keeps to a second bound whatever comes at once, and lets the new ones in', async () => {
    for (let at = 0; at < 40; at++) await open();
    await expect.poll(openOnes, LIMIT).toEqual(Array.from({ length: 8 }, (_, at) => 32 + at));
  });

  it('lets answers that nobody reads go when nothing is idle, and what is held never', async () => {
    const asked: ServerResponse[] = [];
    handle = (request, response) => {
      if (asked.push(response) === 1) bound.hold(request, response);
    };
    for (let at = 0; at < 3; at++) {
      (await open()).write(HEAD);
      await expect.poll(() => asked.length, LIMIT).toBe(at + 1);
    }
    // An idle one goes before them, once it had the time to ask.
    await openOneMore();
    await expect.poll(openOnes, LIMIT).toEqual([0, 1, 2]);
    for (const count of [4, 5]) {
      (await open()).write(HEAD);
      await expect.poll(() => asked.length, LIMIT).toBe(count);
      clock.advance(250);
    }
    await expect.poll(openOnes, LIMIT).toEqual([0, 4, 5]);
    asked[0]?.end();
    await once(clients[0] as Socket, 'data');
    // No longer held.
    clock.advance(1);
    (await open()).write(HEAD);
    await expect.poll(() => asked.length, LIMIT).toBe(6);
    clock.advance(250);
    await expect.poll(openOnes, LIMIT).toEqual([4, 5, 6]);
  });

  it('ends a connection that asks on without waiting for answers', async () => {
    let count = 0;
    handle = ({ socket }) => void (socket.destroyed || count++);
    const client = await open();
    client.write(HEAD.repeat(500));
    await expect.poll(openOnes, LIMIT).toEqual([]);
    expect(count).toBe(2);
  });
});
