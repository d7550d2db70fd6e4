import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import type { Given } from '../../src/agent/admin/api.ts';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { convertDirectory } from '../../src/convert/convert-directory.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { blobPath } from '../../src/convert/oci-layout.ts';
import { blockCount } from '../../src/image/block.ts';
import { parseManifest, type Descriptor, type Manifest } from '../../src/image/manifest.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { isFinal, type PreheatJob } from '../../src/preheat/messages.ts';
import { defined } from '../../src/util/assert.ts';
import { describeWith, needs } from '../kit/requires.ts';

const BIN = new URL('../../bin/xylem.js', import.meta.url).pathname;
const LIMIT = { timeout: 60_000, interval: 100 };
const run = promisify(execFile);

/** A registry's front door, which a test can shut: answers with blobs then wait. */
class Door {
  readonly #server: Server;
  #opened: PromiseWithResolvers<void> | undefined;

  constructor(target: () => string) {
    this.#server = createServer((incoming, outgoing) => {
      const pass = async (): Promise<void> => {
        if (incoming.url?.includes('/blobs/') === true) await this.#opened?.promise;
        const { method, headers, url = '' } = incoming;
        const onward = request(`http://${target()}${url}`, { method, headers }, (answer) => {
          outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
          answer.pipe(outgoing);
        });
        onward.on('error', () => outgoing.destroy());
        onward.end();
      };
      void pass();
    });
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  listen(): Promise<void> {
    return new Promise((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
  }

  shut(): void {
    this.#opened = Promise.withResolvers();
  }

  open(): void {
    this.#opened?.resolve();
    this.#opened = undefined;
  }

  close(): void {
    this.open();
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

describeWith('preheats of real agents', [needs.program('mke2fs')], () => {
  const manifests = new Map<string, Manifest>();
  let dir: string;
  let layout: string;
  let registry: EmbeddedRegistry;
  const door = new Door(() => registry.address);
  let cluster: AgentCluster;

  /** An image of random files with a tag of its own. */
  async function publish(tag: string, sizeBytes: number): Promise<void> {
    const rootfs = join(dir, tag);
    mkdirSync(rootfs);
    writeFileSync(join(rootfs, 'data'), randomBytes(sizeBytes));
    const parts = { codec: new NodeCodec(), hash: new NodeHash() };
    const target = new LayoutPlace(parts, `oci:${layout}:${tag}`);
    const { digest } = await convertDirectory(parts, rootfs, target);
    manifests.set(tag, parseManifest(readFileSync(blobPath(layout, digest))));
  }

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'xylem-test-'));
    layout = join(dir, 'layout');
    registry = new EmbeddedRegistry({ layoutDir: layout, repository: 'app' });
    for (const tag of ['all', 'zone', 'count', 'cancel', 'die']) await publish(tag, 9 * 2 ** 20);
    await registry.start();
    await door.listen();
    cluster = new AgentCluster({
      dir,
      roots: 1,
      children: 3,
      registry: door.address,
      devices: false,
      zones: ['z1', 'z1', 'z2'],
    });
    await cluster.start();
    // The hosts connect to the root although they have read nothing.
    const root = defined(cluster.roots[0], 'a root');
    await vi.waitFor(async () => {
      expect((await cluster.status(root)).peers).toHaveLength(3);
    }, LIMIT);
  }, 120_000);
  afterAll(async () => {
    door.close();
    await cluster.stop();
    await registry.stop();
    rmSync(dir, { recursive: true, force: true });
  }, 60_000);

  const image = (tag: string): string => `docker://${door.address}/app:${tag}`;
  const child = (at: number): ClusterHost => defined(cluster.children[at], 'a child');
  const blobsOf = (tag: string): readonly Descriptor[] => {
    const { config, layers } = defined(manifests.get(tag), 'a published image');
    return [config, ...layers];
  };
  const start = (host: ClusterHost, given: Given<'preheat'>): Promise<PreheatJob> =>
    askAgent({ admin: host.process.socket }, 'preheat', given);
  const look = (host: ClusterHost, id: string): Promise<PreheatJob> =>
    askAgent({ admin: host.process.socket }, 'preheatStatus', { id });
  const ended = async (host: ClusterHost, id: string): Promise<PreheatJob> => {
    await expect.poll(async () => isFinal((await look(host, id)).state), LIMIT).toBe(true);
    return look(host, id);
  };
  /** Whether a host has every block of an image, or none. */
  async function holds(host: ClusterHost, tag: string): Promise<boolean> {
    const held = new Map((await cluster.blobs(host)).map(({ digest, blocks }) => [digest, blocks]));
    const counts = blobsOf(tag).map(({ digest, size }) => {
      const count = (held.get(digest) ?? []).reduce((sum, [, length]) => sum + length, 0);
      return [count, blockCount(size)] as const;
    });
    return counts.every(([count, all]) => count === all);
  }

  it('xylem preheat brings an image to all hosts, which then need no registry', async () => {
    const before = registry.stats().blobBytes;
    const { socket } = child(1).process;
    const args = [BIN, 'preheat', '--json', '--admin', socket, image('all')];
    const { stdout } = await run(process.execPath, args, { timeout: 60_000 });
    const job = JSON.parse(stdout) as PreheatJob;
    expect(job).toMatchObject({ state: 'done' });
    expect(job.hosts.map(({ zone }) => zone).sort()).toEqual(['z1', 'z1', 'z2']);
    // Each byte once, the tiny config included, whatever host it went to.
    const sizeBytes = blobsOf('all').reduce((sum, { size }) => sum + size, 0);
    const root = await cluster.status(defined(cluster.roots[0], 'a root'));
    expect(root.bytesBySource['origin']).toBe(sizeBytes);
    // On a busy machine a connection to the registry may break, and the agent may repeat its few
    // requests.
    expect(registry.stats().blobBytes - before).toBeLessThan(1.5 * sizeBytes);
    for (const host of cluster.children) expect(await holds(host, 'all'), host.name).toBe(true);
    const shut = registry.stats().blobBytes;
    for (const host of cluster.children) {
      for (const { digest } of blobsOf('all')) {
        const url = `${host.local}/http://${door.address}/v2/app/blobs/${digest}`;
        const response = await fetch(url);
        const hash = createHash('sha256').update(new Uint8Array(await response.arrayBuffer()));
        expect(`sha256:${hash.digest('hex')}`).toBe(digest);
      }
      expect((await cluster.status(host)).bytesBySource['fallback'] ?? 0).toBe(0);
    }
    // But for the byte by which the root learns that anybody may read a blob.
    expect(registry.stats().blobBytes - shut).toBeLessThanOrEqual(blobsOf('all').length);
  }, 120_000);

  it('brings an image to one zone, or to some hosts, through any agent', async () => {
    const root = defined(cluster.roots[0], 'a root');
    const zone = await start(root, { image: image('zone'), zone: 'z2' });
    expect(await ended(child(0), zone.id)).toMatchObject({
      state: 'done',
      hosts: [{ zone: 'z2' }],
    });
    expect(await Promise.all(cluster.children.map((host) => holds(host, 'zone')))).toEqual([
      false,
      false,
      true,
    ]);
    const count = await start(child(2), { image: image('count'), count: 2 });
    const job = await ended(root, count.id);
    expect(job.hosts.map((host) => host.zone).sort()).toEqual(['z1', 'z2']);
    const held = await Promise.all(cluster.children.map((host) => holds(host, 'count')));
    expect(held.filter(Boolean)).toHaveLength(2);
    const none = await start(child(0), { image: image('count'), zone: 'nowhere' });
    expect(await ended(child(0), none.id)).toMatchObject({ state: 'failed', failure: 'no-hosts' });
    const wrong = await start(child(0), { image: image('no-such-tag') });
    expect(await ended(child(0), wrong.id)).toMatchObject({
      state: 'failed',
      failure: 'not-found',
    });
  }, 120_000);

  it('is cancelled on every host', async () => {
    door.shut();
    const { id } = await start(child(0), { image: image('cancel') });
    await expect
      .poll(async () => (await look(child(0), id)).hosts.map(({ state }) => state), LIMIT)
      .toEqual(['running', 'running', 'running']);
    const cancelled = await askAgent({ admin: child(1).process.socket }, 'cancelPreheat', { id });
    expect(cancelled).toMatchObject({ id, state: 'cancelled' });
    door.open();
    // A later preheat does not wait for it.
    const next = await start(child(0), { image: image('zone') });
    expect(await ended(child(0), next.id)).toMatchObject({ state: 'done' });
    expect(await look(child(0), id)).toMatchObject({
      state: 'cancelled',
      hosts: [{ state: 'cancelled' }, { state: 'cancelled' }, { state: 'cancelled' }],
    });
    for (const host of cluster.children) expect(await holds(host, 'cancel')).toBe(false);
  }, 120_000);

  it('names a host that dies during the preheat, and completes the others', async () => {
    door.shut();
    const { id } = await start(child(0), { image: image('die') });
    await expect
      .poll(async () => (await look(child(0), id)).hosts.map(({ state }) => state), LIMIT)
      .toEqual(['running', 'running', 'running']);
    child(2).process.signal('SIGKILL');
    door.open();
    const job = await ended(child(0), id);
    expect(job).toMatchObject({ state: 'failed', failure: 'hosts' });
    for (const host of job.hosts) {
      const died = host.peer === child(2).peer;
      expect(host).toMatchObject(died ? { state: 'failed', failure: 'lost' } : { state: 'done' });
    }
    expect(await holds(child(0), 'die')).toBe(true);
    expect(await holds(child(1), 'die')).toBe(true);
  }, 120_000);
});
