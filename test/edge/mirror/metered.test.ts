import { expect, it, onTestFinished } from 'vitest';
import { ManifestCache } from '../../../src/edge/mirror/manifest-cache.ts';
import { Manifests } from '../../../src/edge/mirror/manifests.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES } from '../../../src/image/manifest.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { AskRoots } from '../../../src/transfer/drive/ask-roots.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { callerOf } from '../../kit/caller.ts';
import { FakeRegistry } from '../../kit/fake-registry.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { makeAccess } from '../../registry/kit/origins.ts';

const NEVER = new AbortController().signal;
const HOSTS = 10;
/** Each host pulls so often in the hour. */
const PULLS = 6;
const ROOT = { peer: peerId('12D3KooWroot'), addresses: [] };

const [MANIFEST] = MANIFEST_MEDIA_TYPES;
const [INDEX] = INDEX_MEDIA_TYPES;

/** An index of one image, as tag `1`. */
function publish(registry: FakeRegistry, note: string): readonly [index: Digest, image: Digest] {
  const config = { mediaType: 'a/b', digest: digestOf(Buffer.from('{}')), size: 2 };
  const image = Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers: [], note }));
  const digest = registry.addManifest(note, image);
  const platform = { os: 'linux', architecture: 'amd64' };
  const manifests = [{ mediaType: MANIFEST, digest, size: image.length, platform }];
  const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests }));
  return [registry.addManifest('1', index, INDEX), digest];
}

/** A root and hosts below it, in front of a real HTTP server. */
async function makeCluster() {
  const registry = new FakeRegistry();
  await registry.start();
  onTestFinished(() => registry.stop());
  const clock = new ManualClock({ sleeps: 'pass' });
  const where = { registry: registry.address, repository: 'team/app' };
  const hostWith = (role: 'root' | 'child', name: string) => {
    const { origin } = makeAccess({ host: registry.address, insecure: true }, {}, clock);
    const hash = new NodeHash();
    const parts = { disk: new NodeDisk({ root: tempFolder() }), hash, logger: silentLogger, clock };
    const cache = new ManifestCache(parts);
    origin.keepManifests(cache);
    const transport = callerOf({
      manifest: (_, request) => root.manifests.answer(peerId(name), request),
    });
    const askRoots = new AskRoots(parts);
    const manifests = new Manifests(
      { ...parts, askRoots, cache, metrics: silentMetrics, origin, transport },
      { self: role === 'root' ? ROOT.peer : peerId(name), role, tagMs: 30_000, staleMs: 0 },
    );
    manifests.setUpstreams({ roots: [ROOT], relays: [] });
    return { manifests, origin };
  };
  const root = hostWith('root', 'root');
  const children = Array.from({ length: HOSTS }, (_, i) => hostWith('child', `12D3KooW${i}`));
  return { registry, clock, where, root, children };
}

it('a cluster spends less of what a registry counts than one containerd alone', async () => {
  const { registry, clock, where, root, children } = await makeCluster();
  let digests = publish(registry, 'one');
  for (let pull = 0; pull < PULLS; pull++) {
    // The tag moves in the middle of the hour.
    if (pull === PULLS / 2) digests = publish(registry, 'two');
    for (const { manifests } of children) {
      // As containerd asks, by the tag and then by the digests that it finds.
      for (const [reference, digest] of [
        ['1', digests[0]],
        [digests[0], digests[0]],
        [digests[1], digests[1]],
      ] as const) {
        expect((await manifests.get(where, reference, NEVER)).digest).toBe(digest);
      }
      // Whether anybody may read it, the root asks for the clients of all hosts.
      for (const each of digests) await root.origin.stat(each, where, NEVER);
      clock.advance(3_600_000 / HOSTS / PULLS);
    }
  }
  expect(clock.nowMs()).toBe(3_600_000);
  const made = registry.askedFor('/manifests/');
  const counted = made.filter(({ method }) => method === 'GET');
  // Two manifests of each of two images; containerd gets them at each pull on a host without them.
  expect(counted.map(({ url }) => url)).toHaveLength(4);
  expect(counted.length).toBeLessThan(2 * PULLS);
  // Looks at the tag, at most one in 30 s, and at the two manifests: none of these is counted.
  const looks = made.filter(({ method }) => method === 'HEAD');
  expect(looks.filter(({ url }) => url.endsWith('/1')).length).toBeLessThanOrEqual(120);
  expect(looks.length + counted.length).toBe(made.length);
  expect(registry.askedFor('/v2/').length).toBe(registry.asked.length);
});

it('a preheat and a pull read a manifest once', async () => {
  const { registry, clock, where, root } = await makeCluster();
  const [index] = publish(registry, 'one');
  await root.manifests.get(where, '1', NEVER);
  await root.origin.resolve(`${where.registry}/${where.repository}:1`, NEVER);
  clock.advance(86_400_000);
  expect((await root.manifests.get(where, '1', NEVER)).digest).toBe(index);
  const methods = registry.askedFor('/manifests/').map(({ method }) => method);
  expect(methods.filter((method) => method === 'GET')).toHaveLength(2);
});
