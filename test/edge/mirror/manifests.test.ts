import { describe, expect, it } from 'vitest';
import { ManifestCache } from '../../../src/edge/mirror/manifest-cache.ts';
import { Manifests } from '../../../src/edge/mirror/manifests.ts';
import { listReference } from '../../../src/edge/mirror/block-image-list.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { MANIFEST_MEDIA_TYPES } from '../../../src/image/manifest.ts';
import type { Referrer } from '../../../src/registry/referrers.ts';
import { RegistryError } from '../../../src/registry/errors.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { AskRoots } from '../../../src/transfer/drive/ask-roots.ts';
import { PeerError } from '../../../src/transfer/contracts/transport.ts';
import type { ManifestReply } from '../../../src/tree/messages.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { callerOf } from '../../kit/caller.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const [TYPE] = MANIFEST_MEDIA_TYPES;
const ORIGIN = { registry: 'r.example', repository: 'a/b' };
const NEVER = new AbortController().signal;
const [ROOT, CHILD, RELAY] = [host('root'), host('child'), host('relay')];

function host(name: string) {
  return { peer: peerId(`12D3KooW${name}`), addresses: [] };
}

/**
 * One host, with a registry and hosts above it that answer as told; both count what they are asked.
 */
function hostWith(role: 'root' | 'relay' | 'child', init: { staleMs?: number } = {}) {
  const clock = new ManualClock();
  const hash = new NodeHash();
  const parts = { disk: new NodeDisk({ root: tempFolder() }), hash, logger: silentLogger };
  const self = { root: ROOT, relay: RELAY, child: CHILD }[role].peer;
  const world = {
    clock,
    self,
    bytes: new TextEncoder().encode('{"one":1}'),
    registryError: undefined as Error | undefined,
    above: (): Promise<ManifestReply> =>
      Promise.reject(new PeerError('no connection', { code: 'unreachable' })),
    listed: [] as readonly Referrer[],
    removed: undefined as Digest | undefined,
    askedRegistry: 0,
    askedAbove: [] as string[],
  };
  const manifests = new Manifests(
    {
      ...parts,
      clock,
      askRoots: new AskRoots({ ...parts, clock }),
      cache: new ManifestCache(parts),
      metrics: silentMetrics,
      isRemoved: (digest) => digest === world.removed,
      origin: {
        manifest: async (origin) => {
          world.askedRegistry++;
          if (world.registryError !== undefined) throw world.registryError;
          const { bytes } = world;
          return { digest: digestOf(bytes), mediaType: TYPE, bytes, origin };
        },
        blockImages: async () => {
          world.askedRegistry++;
          if (world.registryError !== undefined) throw world.registryError;
          return world.listed;
        },
      },
      transport: callerOf({
        manifest: ({ peer }) => {
          world.askedAbove.push(peer);
          return world.above();
        },
      }),
    },
    { self, role, tagMs: 30_000, staleMs: init.staleMs ?? 0 },
  );
  manifests.setUpstreams({ roots: [ROOT], relays: [] });
  return { world, manifests, get: (reference: string) => manifests.get(ORIGIN, reference, NEVER) };
}

const AWAY = new RegistryError('away', { code: 'unavailable' });

function found(tag: string, wrong = ''): ManifestReply {
  const bytes = manifestFor(tag);
  const digest = digestOf(bytes);
  const sent = wrong === '' ? bytes : manifestFor(wrong);
  return { outcome: 'found', digest, mediaType: TYPE, bytes: sent, ageMs: 0 };
}

function manifestFor(tag: string): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ schemaVersion: 2, config: { tag } }));
}

describe('Manifests on a root', () => {
  it('asks the registry once for all askers, again for an old tag, once for a digest', async () => {
    const { world, get } = hostWith('root');
    const [one, two] = await Promise.all([get('1'), get('1')]);
    expect([one, world.askedRegistry]).toEqual([two, 1]);
    world.clock.advance(29_999);
    await get('1');
    expect(world.askedRegistry).toBe(1);
    world.clock.advance(1);
    world.bytes = new TextEncoder().encode('{"two":2}');
    const moved = await get('1');
    expect([moved.digest, world.askedRegistry]).toEqual([digestOf(world.bytes), 2]);
    world.clock.advance(10_000_000);
    for (const { digest } of [one, moved]) expect((await get(digest)).digest).toBe(digest);
    expect(world.askedRegistry).toBe(2);
  });

  it('gives the list of block images for as long as a tag, apart from what is pulled', async () => {
    const { world, get, manifests } = hostWith('root');
    const { digest } = await get('1');
    const list = async () => JSON.parse(Buffer.from((await get(ref)).bytes).toString());
    const ref = listReference(digest);
    const image = {
      mediaType: 'm',
      digest: digestOf(Buffer.from('x')),
      size: 1,
      artifactType: 'a',
    };
    expect(await list()).toMatchObject({ manifests: [] });
    world.listed = [image];
    expect(await list(), 'an empty list is kept too').toMatchObject({ manifests: [] });
    world.clock.advance(30_000);
    expect(await list()).toMatchObject({ manifests: [image] });
    expect(world.askedRegistry).toBe(3);
    const request = { origin: ORIGIN, reference: ref };
    expect(await manifests.answer(CHILD.peer, request)).toMatchObject({ outcome: 'found' });
    expect((await get(digest)).digest).toBe(digest);
    world.removed = image.digest;
    world.clock.advance(30_000);
    expect(await list(), 'it is given to nobody any more').toMatchObject({ manifests: [] });
    const odd = { origin: ORIGIN, reference: 'block-images:sha256:12' };
    expect(await manifests.answer(CHILD.peer, odd)).toMatchObject({ outcome: 'not-found' });
  });

  it('answers a recent tag while the registry is away, if configured, up to a bound', async () => {
    const { world, get } = hostWith('root', { staleMs: 60_000 });
    const strict = hostWith('root');
    for (const each of [world, strict.world]) each.registryError = undefined;
    const { digest } = await get('1');
    await strict.get('1');
    for (const each of [world, strict.world]) {
      each.registryError = AWAY;
      each.clock.advance(40_000);
    }
    expect((await get('1')).digest).toBe(digest);
    expect((await get('1')).digest).toBe(digest);
    // Asked once, then left alone for a moment.
    expect(world.askedRegistry).toBe(2);
    await expect(strict.get('1')).rejects.toMatchObject({ code: 'unavailable' });
    world.clock.advance(50_000);
    await expect(get('1')).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('leaves a registry alone that limits requests, for as long as it says', async () => {
    const { world, get } = hostWith('root');
    world.registryError = new RegistryError('slow', { code: 'rate-limited', retryAfterMs: 5_000 });
    for (let i = 0; i < 6; i++) {
      await expect(get('1')).rejects.toMatchObject({ code: 'rate-limited' });
    }
    expect(world.askedRegistry).toBe(1);
    world.clock.advance(5_000);
    world.registryError = undefined;
    await get('1');
    expect(world.askedRegistry).toBe(2);
  });

  it('passes the error of the registry on to a peer', async () => {
    const { world, manifests } = hostWith('root');
    const request = { origin: ORIGIN, reference: '1' };
    world.registryError = new RegistryError('no', {
      code: 'unauthorized',
      status: 401,
      challenge: 'Basic realm="r"',
    });
    expect(await manifests.answer(CHILD.peer, request)).toEqual({
      outcome: 'unauthorized',
      challenge: 'Basic realm="r"',
      retryAfterMs: 0,
    });
    world.registryError = undefined;
    expect(await manifests.answer(CHILD.peer, request)).toMatchObject({ outcome: 'found' });
    expect(world.askedAbove).toEqual([]);
  });

  it.each(['root', 'relay'] as const)(
    'asks nobody for a peer whose reference or repository would climb out of its path (%s)',
    async (role) => {
      const { world, manifests } = hostWith(role);
      const climbing = '../../../../api/v2.0/users?x=';
      const requests = [
        { origin: ORIGIN, reference: climbing },
        { origin: { ...ORIGIN, repository: `a/${climbing}` }, reference: '1' },
        { origin: { ...ORIGIN, registry: 'r.example/api' }, reference: '1' },
      ];
      for (const request of requests) {
        const reply = await manifests.answer(CHILD.peer, request);
        expect(reply).toEqual({ outcome: 'not-found', challenge: '', retryAfterMs: 0 });
      }
      expect([world.askedRegistry, world.askedAbove]).toEqual([0, []]);
    },
  );
});

describe('Manifests on a child', () => {
  it('takes no page of a root', async () => {
    const { world, get } = hostWith('child');
    const bytes = new TextEncoder().encode('<html>');
    world.above = () =>
      Promise.resolve({
        outcome: 'found',
        digest: digestOf(bytes),
        mediaType: TYPE,
        bytes,
        ageMs: 0,
      });
    expect((await get('1')).digest).toBe(digestOf(world.bytes));
    expect([world.askedAbove, world.askedRegistry]).toEqual([[ROOT.peer], 1]);
  });

  it('says why there is none where the registry gives a root something else', async () => {
    const root = hostWith('root');
    const why = 'what came is no manifest: it is empty';
    root.world.registryError = new RegistryError(why, { code: 'protocol', fault: 'no-manifest' });
    const reply = await root.manifests.answer(CHILD.peer, { origin: ORIGIN, reference: '1' });
    expect(reply).toEqual({ outcome: 'bad-content', why });
    const { world, get } = hostWith('child');
    world.above = () => Promise.resolve(reply);
    await expect(get('1')).rejects.toMatchObject({
      code: 'bad-content',
      message: expect.stringContaining(why) as string,
    });
    expect(world.askedRegistry, 'the root has asked').toBe(0);
    root.world.registryError = undefined;
    await root.get('1');
  });

  it('asks the root for each tag, and nobody for a digest that it has', async () => {
    const { world, get } = hostWith('child');
    world.above = () => Promise.resolve(found('x'));
    const { digest } = await get('1');
    await get('1');
    await get(digest);
    expect([world.askedAbove, world.askedRegistry]).toEqual([[ROOT.peer, ROOT.peer], 0]);
  });

  it('asks the registry when no root answers, or sends bytes of another digest', async () => {
    const { world, get } = hostWith('child');
    await get('1');
    world.above = () => Promise.resolve(found('x', 'y'));
    await get('2');
    expect(world.askedRegistry).toBe(2);
    world.above = () => Promise.resolve(found('x'));
    const other = digestOf(new Uint8Array(1));
    world.registryError = AWAY;
    await expect(get(other)).rejects.toMatchObject({ code: 'unavailable' });
  });

  it.each(['not-found', 'rate-limited'] as const)('takes %s as the last word', async (outcome) => {
    const { world, get } = hostWith('child');
    world.above = () => Promise.resolve({ outcome, challenge: '', retryAfterMs: 0 });
    await expect(get('1')).rejects.toMatchObject({ code: outcome });
    expect(world.askedRegistry).toBe(0);
  });

  it('reports the error that the root got when it cannot reach the registry itself', async () => {
    const { world, get } = hostWith('child');
    world.registryError = AWAY;
    world.above = () =>
      Promise.resolve({ outcome: 'unauthorized', challenge: 'Basic x', retryAfterMs: 0 });
    await expect(get('1')).rejects.toMatchObject({
      detail: { code: 'unauthorized', challenges: ['Basic x'] },
    });
  });

  it('asks a relay first where there is one; a relay asks a root', async () => {
    const child = hostWith('child');
    const relay = hostWith('relay');
    for (const { manifests, world } of [child, relay]) {
      manifests.setUpstreams({ roots: [ROOT], relays: [RELAY] });
      world.above = () => Promise.resolve(found('x'));
    }
    await child.get('1');
    await relay.manifests.answer(CHILD.peer, { origin: ORIGIN, reference: '1' });
    expect(child.world.askedAbove).toEqual([RELAY.peer]);
    expect(relay.world.askedAbove).toEqual([ROOT.peer]);
  });
});
