import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { defined } from '../../src/util/assert.ts';
import { MIB } from '../../src/util/bytes.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import { ask } from './kit/local-client.ts';

/**
 * Of a read of a block that a host has, or gets, while others attack: a busy machine takes most of
 * it.
 */
const READ_MS_MAX = 10_000;

const registry = new FakeRegistry();
const dir = mkdtempSync(join(tmpdir(), 'xylem-test-'));
let cluster: AgentCluster;
let host: ClusterHost;
let blob: FakeBlob;

beforeAll(async () => {
  await registry.start();
  cluster = new AgentCluster({
    dir,
    roots: 1,
    children: 1,
    registry: registry.address,
    devices: false,
  });
  await cluster.start();
  host = defined(cluster.children[0], 'a child');
});
afterAll(async () => {
  await cluster?.stop();
  await registry.stop();
  rmSync(dir, { recursive: true, force: true });
});
beforeEach(() => {
  blob = registry.add(4 * MIB);
});

/** Connections that send the text and never read what comes. They end with the test. */
async function attack(count: number, text: string): Promise<readonly Socket[]> {
  const sockets = Array.from({ length: count }, () => {
    const socket = connect(Number(new URL(host.mirror).port), '127.0.0.1');
    socket.on('error', () => {});
    socket.pause();
    socket.write(text);
    return socket;
  });
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
  });
  await Promise.all(sockets.map((socket) => once(socket, 'connect')));
  return sockets;
}

function head(url: string, range?: string): string {
  const line = range === undefined ? '' : `Range: ${range}\r\n`;
  return `GET /dadip2p/${url} HTTP/1.1\r\nHost: 127.0.0.1\r\n${line}\r\n`;
}

function residentMib(): number {
  const status = readFileSync(`/proc/${host.process.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+([0-9]+) kB/.exec(status)?.[1]) / 1024;
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${host.process.admin}/metrics`)).text();
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1] ?? 0);
}

/**
 * Somebody else's reads, which go on meanwhile: of a blob that nobody has yet, and of the one that
 * is attacked.
 */
async function expectServed(): Promise<void> {
  const fresh = registry.add(1_000_000);
  for (const { bytes, ...read } of [fresh, blob]) {
    const url = registry.url('app', { bytes, ...read });
    for (let offset = 0; offset < 900_000; offset += 300_000) {
      const startedMs = performance.now();
      const range = `bytes=${offset}-${offset + 99_999}`;
      const answer = await ask(host.local, `/dadip2p/${url}`, { headers: { range } });
      expect(answer.status).toBe(206);
      expect(answer.body.equals(bytes.subarray(offset, offset + 100_000))).toBe(true);
      expect(performance.now() - startedMs).toBeLessThan(READ_MS_MAX);
    }
  }
}

describe('the local endpoint of a real agent', () => {
  it.each([
    { what: 'hundreds of ranges ahead', connections: 10, requests: 300 },
    { what: 'some ranges ahead, over many connections', connections: 60, requests: 16 },
  ])(
    'keeps its memory, and serves others, when a program asks for $what and never reads',
    async ({ connections, requests }) => {
      await expectServed();
      const beforeMib = residentMib();
      const one = head(registry.url('app', blob), `bytes=1-${MIB}`);
      await attack(connections, one.repeat(requests));
      let mostMib = 0;
      for (let i = 0; i < 5; i++) {
        await expectServed();
        mostMib = Math.max(mostMib, residentMib());
        expect(await metric('xylem_local_held_bytes{kind="read"}')).toBeLessThanOrEqual(96 * MIB);
      }
      expect(mostMib - beforeMib).toBeLessThan(256);
    },
  );

  it('reads blobs while 256 slow passed-through answers and 1,100 more are asked for', async () => {
    registry.behaviours.set('/slow', (_, response) => {
      response.writeHead(200);
      const trickle = setInterval(() => response.write('x'), 1000);
      response.on('close', () => clearInterval(trickle));
      response.write('x');
      return true;
    });
    await attack(256, head(`http://${registry.address}/slow`));
    const more = await attack(1100, head(`http://${registry.address}/slow/more`));
    await expectServed();
    for (const socket of more) socket.destroy();
    await expectServed();
    expect(registry.askedFor('/slow').length).toBeLessThanOrEqual(32);
  });

  it('answers no page that reaches it under a name of its own', async () => {
    const path = `/dadip2p/${registry.url('app', blob)}`;
    for (const target of [path, '/v2/', `/v2/app/blobs/${blob.digest}`]) {
      const answer = await ask(host.local, target, { headers: { host: 'evil.example:19145' } });
      expect(answer.status).toBe(421);
    }
    const { port } = new URL(host.mirror);
    const ours = await ask(host.local, path, { headers: { host: `localhost:${port}` } });
    expect(ours.status).toBe(200);
  });
});
