import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { LocalServer } from '../../../src/edge/http/local-server.ts';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const MIB = 1024 * 1024;

/** A server of one route that notes what is begun, and answers when the test says so. */
async function start() {
  const begun: { request: IncomingMessage; response: ServerResponse }[] = [];
  let onBegun = (): void => {};
  const metrics = new PromMetrics({ processMetrics: false });
  const route = {
    handle: (request: IncomingMessage, response: ServerResponse): boolean => {
      begun.push({ request, response });
      onBegun();
      return true;
    },
  };
  const server = new LocalServer(
    { routes: [route], clock: new ManualClock(), metrics },
    { listen: { host: '127.0.0.1', port: 0 }, connectionsMax: 100 },
  );
  await server.start();
  const sockets: Socket[] = [];
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    await server.stop();
  });
  const open = async (): Promise<Socket> => {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
    socket.on('error', () => {});
    sockets.push(socket);
    await once(socket, 'connect');
    return socket;
  };
  const begins = async (count: number): Promise<void> => {
    while (begun.length < count) await new Promise<void>((resolve) => (onBegun = resolve));
  };
  return { begun, begins, open, metrics };
}

const ask = (path: string, host = 'localhost'): string =>
  `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`;

async function textUntil(socket: Socket, end: string): Promise<string> {
  let text = '';
  while (!text.includes(end)) text += String((await once(socket, 'data'))[0]);
  return text;
}

describe('LocalServer and pipelined requests', () => {
  it('begins the next one when the answer before it has left', async () => {
    const { begun, begins, open } = await start();
    const socket = await open();
    socket.write(ask('/1') + ask('/2') + ask('/3'));
    await begins(1);
    expect(begun.map(({ request }) => request.url)).toEqual(['/1']);
    begun[0]?.response.end('one');
    await begins(2);
    expect(begun.map(({ request }) => request.url)).toEqual(['/1', '/2']);
    begun[1]?.response.end('two');
    await begins(3);
    begun[2]?.response.end('three');
    const text = await textUntil(socket, 'three');
    expect(text.replaceAll(/[^]*?(one|two|three)/g, '$1 ')).toBe('one two three ');
  });

  it('begins no second one for a client that does not read', async () => {
    const { begun, begins, open } = await start();
    const socket = await open();
    socket.pause();
    socket.write(ask('/1') + ask('/2'));
    await begins(1);
    // More than the system keeps of a connection on loopback.
    begun[0]?.response.end(Buffer.alloc(32 * MIB));
    const other = await open();
    other.write(ask('/other'));
    await begins(2);
    begun[1]?.response.end('other');
    await textUntil(other, 'other');
    expect(begun.map(({ request }) => request.url)).toEqual(['/1', '/other']);
    const closed = once(begun[0]?.response as ServerResponse, 'close');
    socket.destroy();
    await closed;
    expect(begun).toHaveLength(2);
  });

  it('closes a connection that asks for too much ahead of its answers', async () => {
    const { begun, begins, open, metrics } = await start();
    const socket = await open();
    const closed = once(socket, 'close');
    socket.write(Array.from({ length: 300 }, (_, i) => ask(`/${i}`)).join(''));
    await closed;
    await begins(1);
    expect(begun).toHaveLength(1);
    expect(await metrics.text()).toContain('xylem_local_connections_refused_total 1');
  });
});

describe('LocalServer and the Host header', () => {
  it('refuses a foreign name that resolves to this host, before any route', async () => {
    const { begun, begins, open } = await start();
    const socket = await open();
    socket.write(ask('/secret', 'evil.example:19145'));
    const text = await textUntil(socket, 'misdirected');
    expect(text).toMatch(/^HTTP\/1.1 421 /);
    expect(text).toContain('evil.example:19145');
    expect(begun).toEqual([]);
    socket.write(ask('/ours', '127.0.0.1:19145'));
    await begins(1);
    const old = await open();
    old.write('GET /old HTTP/1.0\r\n\r\n');
    await begins(2);
    expect(begun.map(({ request }) => request.url)).toEqual(['/ours', '/old']);
  });
});
