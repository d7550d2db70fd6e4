import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { API, pathOf, ROUTE_NAMES, type Route } from '../../src/agent/admin/api.ts';
import { isOpen } from '../../src/agent/admin/access.ts';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { defined } from '../../src/util/assert.ts';
import { describeWith, needs } from '../kit/requires.ts';

const BIN = new URL('../../bin/xylem.js', import.meta.url).pathname;
const NOBODY = 65_534;
const LIMIT = { timeout: 30_000, interval: 100 };
/** Three times what deploy/k8s lets a probe take: the agent shares the machine with other tests. */
const PROBE_MS_MAX = 9_000;
const IMAGE = 'docker://127.0.0.1:1/app:1';

/**
 * What takes a method, a URL or a socket, and a path, and says what it heard: the status, or why
 * there is none.
 */
const STRANGER = `
  const [at, method, path] = process.argv.slice(1);
  const place = at.startsWith('/')
    ? { socketPath: at }
    : { host: '127.0.0.1', port: new URL(at).port };
  const headers = { 'content-type': 'application/json' };
  const sent = require('node:http').request({ ...place, method, path, headers }, (response) => {
    process.stdout.write(String(response.statusCode));
    response.destroy();
  });
  sent.on('error', (error) => process.stdout.write(error.code));
  sent.end(method === 'GET' ? undefined : '{}');
`;

let dir: string;
let cluster: AgentCluster;
let root: ClusterHost;
let child: ClusterHost;
let files: { readonly change: string; readonly read: string };

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'xylem-test-'));
  files = { change: join(dir, 'change.token'), read: join(dir, 'read.token') };
  writeFileSync(files.change, 'c'.repeat(40), { mode: 0o600 });
  writeFileSync(files.read, 'r'.repeat(40), { mode: 0o600 });
  const shape = { roots: 1, children: 1, devices: false, registry: '127.0.0.1:1' };
  const admin = { tokenFile: files.change, readTokenFile: files.read };
  cluster = new AgentCluster({ dir, ...shape, config: () => ({ admin }) });
  await cluster.start();
  root = defined(cluster.roots[0], 'a root');
  child = defined(cluster.children[0], 'a child');
}, 120_000);
afterAll(async () => {
  await cluster.stop();
  rmSync(dir, { recursive: true, force: true });
}, 60_000);

describeWith('a local program without rights', [needs.root], () => {
  /** What a process of the user `nobody` on this host hears. */
  function heard(at: string, method: string, path: string): Promise<string> {
    const args = ['-e', STRANGER, at, method, path];
    return new Promise((resolve, reject) => {
      const options = { uid: NOBODY, gid: NOBODY, cwd: '/' };
      execFile(process.execPath, args, options, (error, out) =>
        error === null ? resolve(out) : reject(error),
      );
    });
  }

  it('mounts, pins, empties, preheats and learns nothing by TCP, though on loopback', async () => {
    const closed = ROUTE_NAMES.filter((name) => !isOpen(API[name].access));
    expect(closed).toHaveLength(21);
    const id = '0'.repeat(32);
    for (const name of closed) {
      const route: Route = API[name];
      expect(await heard(child.process.admin, route.method, pathOf(route, { id })), name).toBe(
        '401',
      );
    }
    expect(await heard(child.process.admin, 'GET', '/livez')).toBe('200');
    expect(await heard(child.process.admin, 'GET', '/metrics')).toBe('200');
  }, 120_000);

  it('cannot open the socket of the agent, nor look into its folder', async () => {
    expect(await heard(child.process.socket, 'GET', '/livez')).toBe('EACCES');
    const folder = statSync(dirname(child.process.socket));
    expect((folder.mode & 0o777).toString(8)).toBe('700');
    expect((statSync(child.process.socket).mode & 0o777).toString(8)).toBe('600');
  });
});

describe('the tokens of an agent', () => {
  const ask = (tokenFile?: string) => ({
    admin: child.process.admin,
    ...(tokenFile !== undefined && { tokenFile }),
  });

  it('open what reads, or all; without one TCP tells nothing', async () => {
    await expect(askAgent(ask(), 'status')).rejects.toMatchObject({ detail: { status: 401 } });
    expect(await askAgent(ask(files.read), 'status')).toMatchObject({ peer: child.peer });
    await expect(askAgent(ask(files.read), 'gc')).rejects.toMatchObject({
      detail: { status: 403, reason: 'forbidden' },
    });
    expect(await askAgent(ask(files.change), 'gc')).toMatchObject({ blockCount: 0 });
  });
});

describe('a host of the cluster', () => {
  it('has no other host pin an image by a preheat: a root is asked by its own people', async () => {
    const pins = { image: IMAGE, pin: true };
    const refused = askAgent({ admin: child.process.socket }, 'preheat', pins);
    await expect(refused).rejects.toMatchObject({ detail: { status: 403, reason: 'refused' } });
    const job = await askAgent({ admin: root.process.socket }, 'preheat', pins);
    expect(job.id).toMatch(/^[0-9a-f]{32}$/);
    const plain = await askAgent({ admin: child.process.socket }, 'preheat', { image: IMAGE });
    const look = await askAgent({ admin: root.process.socket }, 'preheatStatus', plain);
    expect(look).toMatchObject({ id: plain.id, spec: { pin: false } });
  });
});

describe('probes', () => {
  /**
   * A connection to the agent that never completes its head, and comes back whenever it is closed.
   */
  function hold(flood: { readonly sockets: Set<Socket>; reopened: number; ends: boolean }): void {
    const socket = connect(Number(new URL(child.process.admin).port), '127.0.0.1', () =>
      socket.write('GET /livez HTTP/1.1\r\nhost: a\r\nx-unfinished: '),
    );
    flood.sockets.add(socket);
    socket.on('error', () => {});
    socket.resume().once('close', () => {
      flood.sockets.delete(socket);
      if (flood.ends) return;
      flood.reopened++;
      setImmediate(() => hold(flood));
    });
  }

  /**
   * As the kubelet asks: a connection of its own. It asks again before it gives up; here the first
   * time counts.
   */
  function probe(path: string): Promise<number> {
    return new Promise((resolve, reject) => {
      const { port } = new URL(child.process.admin);
      const signal = AbortSignal.timeout(PROBE_MS_MAX);
      const sent = request({ host: '127.0.0.1', port, path, agent: false, signal }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      sent.on('error', reject);
      sent.end();
    });
  }

  it('are answered while 300 connections with unfinished heads come again and again', async () => {
    const flood = { sockets: new Set<Socket>(), reopened: 0, ends: false };
    onTestFinished(() => {
      flood.ends = true;
      for (const socket of flood.sockets) socket.destroy();
    });
    for (let count = 0; count < 300; count++) hold(flood);
    await expect.poll(() => flood.reopened, LIMIT).toBeGreaterThan(300);
    for (let round = 0; round < 20; round++) {
      expect(await probe('/livez')).toBe(200);
      expect(await probe('/readyz')).toBe(200);
    }
    expect(await askAgent({ admin: child.process.socket }, 'status')).toMatchObject({
      peer: child.peer,
    });
  }, 60_000);

  it('are answered while 300 connections ask for metrics and read nothing', async () => {
    const { port } = new URL(child.process.admin);
    const sockets = Array.from({ length: 300 }, () => {
      const socket = connect(Number(port), '127.0.0.1', () =>
        socket.write('GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n'.repeat(5)),
      );
      return socket.on('error', () => {}).pause();
    });
    onTestFinished(() => {
      for (const socket of sockets) socket.destroy();
    });
    for (let round = 0; round < 10; round++) expect(await probe('/livez')).toBe(200);
  }, 60_000);
});

describe('the socket of an agent', () => {
  it('stays its own when a second agent of the host is to have it', async () => {
    const file = join(dir, 'second.yaml');
    const config = readFileSync(join(dir, 'host-1', 'agent.yaml'), 'utf8');
    // With ports of its own.
    const [port = 0] = await freePorts(1);
    const p2p = `/ip4/127.0.0.1/tcp/${port}`;
    const others = ['--admin.listen', '127.0.0.1:0', '--p2p.listen', p2p];
    writeFileSync(file, config);
    const args = [BIN, 'agent', '--config', file, ...others];
    const outcome = await new Promise<string>((resolve) => {
      execFile(process.execPath, args, { timeout: 60_000 }, (_, __, err) => resolve(err));
    });
    expect(outcome).toMatch(
      /cannot listen on .*host-1\/admin\/admin.sock \(admin.socket\): .* is in use by another/,
    );
    const status = await askAgent({ admin: child.process.socket }, 'status');
    expect(status.peer).toBe(child.peer);
  }, 90_000);

  it('works again after a kill, and is gone after a clean stop', async () => {
    child.process.signal('SIGKILL');
    await expect
      .poll(() => askAgent({ admin: child.process.socket }, 'status').catch(() => 'down'), LIMIT)
      .toBe('down');
    expect(existsSync(child.process.socket)).toBe(true);
    await cluster.restart(child);
    await waitReady(child.process);
    const status = spawn(process.execPath, [BIN, 'status', '--admin', child.process.socket]);
    const code = await new Promise((resolve) => status.once('exit', resolve));
    expect(code).toBe(0);
    await child.process.stop();
    expect(existsSync(child.process.socket)).toBe(false);
  }, 120_000);
});
