import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import type { ClusterHost } from '../../src/demo/agent-cluster.ts';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { isFinal } from '../../src/preheat/messages.ts';
import { FakeRegistry, type Behaviour, type FakeBlob } from '../kit/fake-registry.ts';
import { startServedCluster, type ServedCluster } from '../kit/served-cluster.ts';

const SIZE = 1_000_000;
const [OCI] = MANIFEST_MEDIA_TYPES;
const LIMIT = { timeout: 60_000, interval: 20 };

/** Each host looks at one byte, and a root at one more, before it reads. */
const LOOKS_BYTES_MAX = 1_000;

const headIs =
  (status: number): Behaviour =>
  (request, response) => {
    if (request.method !== 'HEAD') return false;
    response.writeHead(status, { 'content-length': 0 }).end();
    return true;
  };

describe('blobs whose HEAD is refused, while GET works', () => {
  const registry = new FakeRegistry();
  const storage = new FakeRegistry();
  let served: ServedCluster;

  beforeAll(async () => {
    served = await startServedCluster([registry, storage], () => ({
      ...{ roots: 1, children: 2 },
      config: () => ({
        registries: [
          { host: registry.address, insecure: true },
          { host: storage.address, insecure: true },
        ],
      }),
    }));
    const [root] = served.cluster.roots as [ClusterHost];
    await vi.waitFor(async () => {
      expect((await served.cluster.status(root)).peers).toHaveLength(2);
    }, LIMIT);
  }, 120_000);
  afterAll(() => served.stop(), 60_000);

  /** An image of one layer, in a repository where blobs behave so. */
  function publish(repository: string, behaviour: Behaviour): FakeBlob {
    const layer = registry.add(SIZE);
    storage.share(layer);
    const config = registry.addBlob(randomBytes(100));
    storage.share(config);
    const describe = ({ digest, bytes }: FakeBlob, mediaType: string) => ({
      ...{ mediaType, digest, size: bytes.length },
    });
    const manifest = {
      ...{ schemaVersion: 2, mediaType: OCI },
      config: describe(config, 'application/vnd.oci.image.config.v1+json'),
      layers: [describe(layer, 'application/vnd.oci.image.layer.v1.tar+gzip')],
    };
    registry.addManifest(repository.replace('/', '-'), Buffer.from(JSON.stringify(manifest)));
    registry.behaviours.set(`/v2/${repository}/blobs/`, behaviour);
    return layer;
  }

  async function preheat(repository: string): Promise<unknown> {
    const [root] = served.cluster.roots as [ClusterHost];
    const place = { admin: root.process.socket };
    const image = `docker://${registry.address}/${repository}:${repository.replace('/', '-')}`;
    const { id } = await askAgent(place, 'preheat', { image });
    const look = () => askAgent(place, 'preheatStatus', { id });
    await expect.poll(async () => isFinal((await look()).state), LIMIT).toBe(true);
    return look();
  }

  it.each<[string, string, Behaviour]>([
    ['a registry that says 404', 'team/a', headIs(404)],
    ['a registry that says 401', 'team/b', headIs(401)],
    ['a registry that says 405', 'team/c', headIs(405)],
    ['a registry that says 501', 'team/d', headIs(501)],
    [
      'a storage whose URLs are signed for GET',
      'team/e',
      (_, response, blob) => {
        if (blob === undefined) return false;
        response.writeHead(307, { location: storage.signedUrl(blob, 's=1') }).end();
        return true;
      },
    ],
  ])('come once for all hosts, also by a preheat, from %s', async (_, repository, behaviour) => {
    storage.behaviours.set('', headIs(403));
    const layer = publish(repository, behaviour);
    const before = registry.sentBytes + storage.sentBytes;
    for (const { mirror } of served.cluster.children) {
      const path = `/v2/${repository}/blobs/${layer.digest}?ns=${registry.address}`;
      const answer = await fetch(`${mirror}${path}`);
      expect(answer.status).toBe(200);
      expect(Buffer.from(await answer.arrayBuffer()).equals(layer.bytes)).toBe(true);
    }
    const sent = registry.sentBytes + storage.sentBytes - before;
    expect(sent - SIZE).toBeLessThan(LOOKS_BYTES_MAX);
    // What was read before makes no difference.
    expect(await preheat(repository)).toMatchObject({ state: 'done', missing: [] });
    for (const child of served.cluster.children) {
      const { bytesBySource } = await served.cluster.status(child);
      expect(bytesBySource['fallback'] ?? 0).toBe(0);
    }
  });
});
