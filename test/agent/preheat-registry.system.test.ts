import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { isFinal, type PreheatJob } from '../../src/preheat/messages.ts';
import { defined } from '../../src/util/assert.ts';
import { FakeRegistry, type Behaviour, type FakeBlob } from '../kit/fake-registry.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const [OCI] = MANIFEST_MEDIA_TYPES;
const FOREIGN = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip';
const LIMIT = { timeout: 60_000, interval: 20 };
const SIZE = 700_000;

/** Answers GETs of the blob beyond its first byte. */
const onReads =
  (blob: FakeBlob, answer: Behaviour): Behaviour =>
  (request, response, asked) => {
    const isRead = asked?.hex === blob.hex && request.headers.range !== 'bytes=0-0';
    return isRead && answer(request, response, asked);
  };

const refuse =
  (status: number, headers: Record<string, string> = {}): Behaviour =>
  (_, response) => {
    response.writeHead(status, headers).end();
    return true;
  };

describe('a preheat of real agents, from a registry that', () => {
  const registry = new FakeRegistry();
  let cluster: AgentCluster;
  let root: ClusterHost;
  const ends: (() => void | Promise<void>)[] = [];
  let images = 0;

  beforeAll(async () => {
    await registry.start();
    cluster = new AgentCluster({
      dir: tempFolder((end) => ends.push(end)),
      roots: 1,
      children: 2,
      registry: registry.address,
      devices: false,
    });
    await cluster.start();
    root = defined(cluster.roots[0], 'a root');
    await vi.waitFor(async () => {
      expect((await cluster.status(root)).peers).toHaveLength(2);
    }, LIMIT);
  }, 120_000);

  afterAll(async () => {
    await cluster.stop();
    await registry.stop();
    for (const end of ends) await end();
  }, 60_000);

  /** An image of two layers, of which the second may differ, in a repository of its own. */
  function publish(second: object = {}): { tag: string; layers: readonly FakeBlob[] } {
    const tag = `t${++images}`;
    const config = registry.addBlob(Buffer.from(JSON.stringify({ tag })));
    const layers = [SIZE, SIZE + 1].map((sizeBytes) => registry.addBlob(randomBytes(sizeBytes)));
    const describe = ({ digest, bytes }: FakeBlob): object => ({
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
      digest,
      size: bytes.length,
    });
    const described = layers.map((layer, i) => ({ ...describe(layer), ...(i === 1 && second) }));
    const manifest = {
      ...{ schemaVersion: 2, mediaType: OCI, layers: described },
      config: { ...describe(config), mediaType: 'application/vnd.oci.image.config.v1+json' },
    };
    registry.addManifest(tag, Buffer.from(JSON.stringify(manifest)));
    return { tag, layers };
  }

  async function preheat(tag: string): Promise<PreheatJob> {
    const place = { admin: root.process.socket };
    // Each in a repository of its own: that one refuses is remembered for some seconds.
    const image = `docker://${registry.address}/team/${tag}:${tag}`;
    const { id } = await askAgent(place, 'preheat', { image, part: 'image', pin: false });
    await expect
      .poll(async () => isFinal((await askAgent(place, 'preheatStatus', { id })).state), LIMIT)
      .toBe(true);
    return askAgent(place, 'preheatStatus', { id });
  }

  /** Blocks of the blob on each child. */
  async function heldOf(blob: FakeBlob): Promise<readonly number[]> {
    const held = await Promise.all(cluster.children.map((child) => cluster.blobs(child)));
    return held.map((blobs) => {
      const { blocks = [] } = blobs.find(({ digest }) => digest === blob.digest) ?? {};
      return blocks.reduce((sum, [, count]) => sum + count, 0);
    });
  }

  it('has everything', async () => {
    const { tag } = publish();
    const job = await preheat(tag);
    expect(job).toMatchObject({ state: 'done', missing: [] });
  });

  it.each([
    { mediaType: FOREIGN },
    { urls: ['https://elsewhere.example/layer'] },
    { mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip' },
  ])('has not got a foreign layer: %j', async (second) => {
    const { tag, layers } = publish(second);
    const [here, gone] = [defined(layers[0], 'one'), defined(layers[1], 'two')];
    registry.forget(gone);
    const job = await preheat(tag);
    const missing = [{ digest: gone.digest, isForeign: true }];
    expect(job).toMatchObject({ state: 'done', missing });
    expect(await heldOf(here)).toEqual([3, 3]);
  });

  it('has not got an ordinary layer: the hosts have the rest', async () => {
    const { tag, layers } = publish();
    const [here, gone] = [defined(layers[0], 'one'), defined(layers[1], 'two')];
    registry.forget(gone);
    expect(await preheat(tag)).toMatchObject({
      state: 'failed',
      failure: 'missing',
      reason: expect.stringContaining(gone.digest) as string,
      missing: [{ digest: gone.digest, isForeign: false }],
    });
    expect(await heldOf(here)).toEqual([3, 3]);
  });

  it.each<[string, string, Behaviour]>([
    ['404 to reads', 'missing', refuse(404)],
    ['410 to reads', 'missing', refuse(410)],
    ['403 to reads', 'refused', refuse(403)],
    ['401 to reads', 'refused', refuse(401, { 'www-authenticate': 'Basic realm="r"' })],
    ['401 without a challenge to reads', 'protocol', refuse(401)],
    ['400 to reads', 'protocol', refuse(400)],
    ['451 to reads', 'protocol', refuse(451)],
    [
      'another part than was asked for',
      'protocol',
      (_, response) => {
        response.writeHead(206, { 'content-range': `bytes 7-9/${SIZE + 1}` }).end('abc');
        return true;
      },
    ],
    [
      'parts of another blob',
      'protocol',
      (_, response) => {
        response.writeHead(206, { 'content-range': 'bytes 0-2/3' }).end('abc');
        return true;
      },
    ],
  ])('gives %s: it ends at once, and says why', async (what, failure, behaviour) => {
    const { tag, layers } = publish();
    const blob = defined(layers[1], 'a layer');
    registry.behaviours.set('', onReads(blob, behaviour));
    try {
      const job = await preheat(tag);
      expect(job).toMatchObject({ state: 'failed', failure });
      expect(job.reason).toMatch(/\w/);
      // What is found out is told to all. Broken parts are asked for again, and the whole too.
      const isRefusal = what.includes('to reads');
      expect(registry.askedFor(blob.digest).length).toBeLessThanOrEqual(isRefusal ? 2 : 6);
    } finally {
      registry.behaviours.clear();
    }
  });
});
