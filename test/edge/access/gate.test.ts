import { beforeEach, describe, expect, it } from 'vitest';
import { BlobAuthority } from '../../../src/edge/access/authority.ts';
import type { BlobAddress, GrantedBlob } from '../../../src/edge/access/contract.ts';
import { OpenBlobGate } from '../../../src/edge/access/gate.ts';
import { OpaqueAuthority } from '../../../src/edge/access/opaque-authority.ts';
import { UrlProbe } from '../../../src/edge/access/url-probe.ts';
import { Ways } from '../../../src/edge/access/ways.ts';
import type { BlobOrigin } from '../../../src/image/block.ts';
import { isOwnKey, opaqueKey, ownWayKey } from '../../../src/image/blob-key.ts';
import { digestOf, type Digest } from '../../../src/image/digest.ts';
import { BelievedSources } from '../../../src/registry/sources.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import type { OpenRequest } from '../../../src/tree/messages.ts';
import { PeerHealth } from '../../../src/transfer/host/peer-health.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { FakeStorage, signature } from '../kit/fake-storage.ts';

const ROOT = 'root' as PeerId;
const CHILD = 'child' as PeerId;
const BYTES = new Uint8Array(1000).fill(7);
const hash = new NodeHash();
const DIGEST = digestOf(hash, BYTES);
const HEX = DIGEST.slice('sha256:'.length);
const STORAGE = 'https://b.example/docker/registry/v2/blobs/';
const AT = `${STORAGE}sha256/${HEX.slice(0, 2)}/${HEX}/data`;
const OPAQUE_AT = 'https://b.example/id/uuid';

/** A host and its root, each with its own way to one storage. */
class World {
  readonly clock = new ManualClock();
  readonly fromRoot = new FakeStorage();
  readonly fromChild = new FakeStorage();
  readonly opened: BlobOrigin[] = [];
  readonly alone: BlobOrigin[] = [];
  readonly asked: OpenRequest[] = [];
  mayLend = true;
  readonly authority: BlobAuthority;
  readonly gate: OpenBlobGate;

  constructor() {
    const { clock } = this;
    for (const storage of [this.fromRoot, this.fromChild]) {
      storage.objects.set(AT, { bytes: BYTES });
      storage.objects.set(OPAQUE_AT, { bytes: BYTES, etag: '"e1"' });
    }
    const entry = { host: 'r.example', storage: [STORAGE], opaqueStorage: ['https://b.example/'] };
    const sources = new BelievedSources({ registries: [entry], defaults: false });
    const atRoot = {
      ...{ clock, hash, sources, logger: silentLogger, ways: new Ways({ clock }) },
      probe: new UrlProbe({ urls: this.fromRoot }),
      onFound: async () => {},
      onChanged: () => {},
    };
    this.authority = new BlobAuthority({
      ...atRoot,
      opaque: new OpaqueAuthority(atRoot),
      stat: () => Promise.reject(new OriginError('no such blob', { code: 'not-found' })),
    });
    const ask = (_: PeerId, request: OpenRequest) => {
      this.asked.push(request);
      return this.authority.open(request, CHILD);
    };
    this.gate = new OpenBlobGate(
      {
        ...{ clock, hash, metrics: silentMetrics, ways: new Ways({ clock }) },
        health: new PeerHealth(),
        kept: { get: () => undefined, put: () => {}, end: () => {} },
        roots: { order: () => [ROOT], ask, mayLendTo: () => this.mayLend, lend: async () => {} },
        probe: new UrlProbe({ urls: this.fromChild }),
        trees: {
          open: async (blobs) => void this.opened.push(...blobs.map(({ origin }) => origin)),
          close: () => {},
          openOwnWay: ({ origin }) => void this.alone.push(origin),
          closeOwnWay: () => {},
        },
      },
      { acceptMs: 300_000, staleMs: 3_600_000 },
    );
  }

  open(digest: Digest, address: BlobAddress, shownBytes?: number): Promise<GrantedBlob> {
    const { signal } = new AbortController();
    const shown = shownBytes !== undefined && { shownBytes };
    return this.gate.open({ digest, address, authorization: undefined, signal, ...shown });
  }
}

let world: World;
beforeEach(() => {
  world = new World();
});

function address(signer: string): BlobAddress {
  const url = `${AT}${signature(signer)}`;
  return { scheme: 'https', registry: 'b.example', repository: '', storage: STORAGE, url };
}

const opaque = { path: 'id/uuid', etag: '"e1"', sizeBytes: 1000 };
const opaqueAddress = (signer: string): BlobAddress => ({
  ...{ scheme: 'https', registry: 'b.example', repository: '', storage: 'https://b.example/' },
  ...{ url: `${OPAQUE_AT}${signature(signer)}`, opaque },
});
const KEY = opaqueKey(hash, opaqueAddress('any'));

describe('OpenBlobGate, a signed URL of a blob with a digest', () => {
  it('is lent, and the blob is shared', async () => {
    expect(await world.open(DIGEST, address('one'))).toMatchObject({
      blob: { digest: DIGEST, sizeBytes: 1000 },
      isShared: true,
    });
    expect(world.asked[0]?.url).toBe(address('one').url);
  });

  it('that is bound to the address of its host serves it, with no 403 of the root', async () => {
    world.fromRoot.refuses = () => true;
    const { storage = '' } = address('one');
    const blob = { digest: DIGEST, sizeBytes: 1000 };
    const origin = { registry: 'b.example', repository: '', storage };
    expect(await world.open(DIGEST, address('one'))).toMatchObject({
      blob: { ...blob, digest: ownWayKey(hash, blob, origin) },
      isShared: false,
    });
    expect(world.fromRoot.asked).toHaveLength(1);
    // Others below the prefix are kept to this host for a while.
    await world.open(digestOf(hash, BYTES.subarray(1)), address('two')).catch(() => {});
    expect(world.asked.map(({ url }) => url !== undefined)).toEqual([true, false]);
    expect(world.fromRoot.asked).toHaveLength(1);
  });

  it('is not opened by a root for a host that names a key as its digest', async () => {
    const { storage = '', url } = address('one');
    const origin = { registry: 'b.example', repository: '', storage };
    const reply = await world.authority.open({ digest: KEY, origin, url }, CHILD);
    expect(reply).toMatchObject({ outcome: 'not-found' });
    expect(world.fromRoot.asked).toEqual([]);
  });

  it('is not lent to a root that is known by its address alone', async () => {
    world.mayLend = false;
    expect((await world.open(DIGEST, address('one'))).isShared).toBe(false);
    expect((await world.open(KEY, opaqueAddress('one'), 1000)).isShared).toBe(false);
    expect(world.asked.map(({ url }) => url)).toEqual([undefined, undefined]);
  });

  it('that its storage refuses to this host too is refused', async () => {
    [world.fromRoot.refuses, world.fromChild.refuses] = [() => true, () => true];
    await expect(world.open(DIGEST, address('one'))).rejects.toMatchObject({ code: 'denied' });
  });
});

describe('OpenBlobGate, an opaque blob', () => {
  it('is opened by what its URL has just shown, and joined by its own key', async () => {
    const granted = await world.open(KEY, opaqueAddress('one'), 1000);
    expect(granted).toMatchObject({ blob: { digest: KEY, sizeBytes: 1000 }, isShared: true });
    expect(world.fromChild.asked).toEqual([]);
    expect(world.opened).toEqual([
      { registry: 'b.example', repository: '', storage: 'https://b.example/', opaque },
    ]);
  });

  it('that was opened is still asked for by each other URL', async () => {
    await world.open(KEY, opaqueAddress('owner'), 1000);
    world.fromChild.refuses = (request) => request.url.includes('thief');
    const thief = { digest: KEY, address: opaqueAddress('thief'), authorization: undefined };
    expect(world.gate.opened(thief)).toBeUndefined();
    await expect(world.open(KEY, opaqueAddress('thief'))).rejects.toMatchObject({ code: 'denied' });
    expect((await world.open(KEY, opaqueAddress('other'))).isShared).toBe(true);
  });

  it('that has become something else opens nothing for a right that is asked anew', async () => {
    await world.open(KEY, opaqueAddress('one'), 1000);
    world.fromChild.objects.set(OPAQUE_AT, { bytes: BYTES, etag: '"e2"' });
    await expect(world.open(KEY, opaqueAddress('two'))).rejects.toMatchObject({
      code: 'other-content',
    });
  });

  it('is read alone where the signature is bound to the address of this host', async () => {
    world.fromRoot.refuses = () => true;
    const granted = await world.open(KEY, opaqueAddress('one'), 1000);
    expect(granted.isShared).toBe(false);
    expect(granted.blob.digest).not.toBe(KEY);
    expect(isOwnKey(granted.blob.digest)).toBe(true);
    // Its key is the digest of nothing: the whole must not be held against it.
    expect(world.alone.map(({ content }) => content)).toEqual([undefined]);
  });

  it.each([
    ['at a registry', { registry: 'r.example', repository: 'a', url: 'https://r.example/v2/x' }],
    ['at a storage with digests', { storage: STORAGE, registry: 'b.example', url: AT }],
  ])('is not there for who names its key as a digest %s', async (_, where) => {
    await world.open(KEY, opaqueAddress('one'), 1000);
    const named: BlobAddress = { scheme: 'https', repository: '', ...where };
    await expect(world.open(KEY, named)).rejects.toMatchObject({ code: 'not-found' });
    const request = { digest: KEY, address: named, authorization: undefined };
    expect(world.gate.opened(request)).toBeUndefined();
    expect(world.asked).toHaveLength(1);
    expect(world.gate.opened({ ...request, address: opaqueAddress('one') })?.blob.digest).toBe(KEY);
  });
});
