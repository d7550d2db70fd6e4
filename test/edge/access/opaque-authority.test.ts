import { beforeEach, describe, expect, it } from 'vitest';
import { OpaqueAuthority } from '../../../src/edge/access/opaque-authority.ts';
import { UrlProbe } from '../../../src/edge/access/url-probe.ts';
import { Ways } from '../../../src/edge/access/ways.ts';
import type { BlobOrigin, OpaqueName } from '../../../src/image/block.ts';
import { opaqueKey, quarantineKey } from '../../../src/image/blob-key.ts';
import { digestOf, type Digest } from '../../../src/image/digest.ts';
import { BelievedSources } from '../../../src/registry/sources.ts';
import { silentLogger, type LogFields } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import type { OpenRequest } from '../../../src/tree/messages.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { FakeStorage, signature } from '../kit/fake-storage.ts';

const STORAGE = 'https://b.example/';
const NAME: OpaqueName = { path: 'layers/id/uuid', etag: '"e1"', sizeBytes: 1000 };
const AT = `${STORAGE}${NAME.path}`;
const CHILD = 'child' as PeerId;
const hash = new NodeHash();

let storage: FakeStorage;
let clock: ManualClock;
let ways: Ways;
let found: Digest[];
let warned: LogFields[];
let changed: Digest[];
let authority: OpaqueAuthority;

function originOf(name: Partial<OpaqueName> = {}, at = STORAGE): BlobOrigin {
  return { registry: 'b.example', repository: '', storage: at, opaque: { ...NAME, ...name } };
}

/** What an honest host asks for this name. */
function asked(name: Partial<OpaqueName> = {}, signer = 'one', at = STORAGE): OpenRequest {
  const origin = originOf(name, at);
  const url = `${at}${origin.opaque?.path}${signature(signer)}`;
  return { digest: opaqueKey(hash, origin), origin, url };
}

beforeEach(() => {
  storage = new FakeStorage();
  storage.objects.set(AT, { bytes: new Uint8Array(1000), etag: '"e1"' });
  clock = new ManualClock();
  ways = new Ways({ clock });
  [found, changed, warned] = [[], [], []];
  const registries = [{ host: 'r.example', opaqueStorage: [`${STORAGE}layers/`] }];
  authority = new OpaqueAuthority({
    sources: new BelievedSources({ registries, defaults: false }),
    probe: new UrlProbe({ urls: storage }),
    ways,
    hash,
    clock,
    logger: { ...silentLogger, warn: (fields) => void warned.push(fields) },
    onFound: async ({ digest }) => void found.push(digest),
    onChanged: (key) => changed.push(key),
  });
});

const NO_WAY = { outcome: 'no-way', isBelieved: true };
const NOT_BELIEVED = { outcome: 'no-way', isBelieved: false };

describe('OpaqueAuthority.open()', () => {
  it('opens what the storage has by the lent URL, once for all hosts', async () => {
    const request = asked();
    const open = {
      outcome: 'open',
      key: request.digest,
      sizeBytes: 1000,
      isPublic: false,
      isBelieved: true,
    };
    const replies = await Promise.all([
      authority.open(request, CHILD),
      authority.open(asked({}, 'two'), 'other' as PeerId),
    ]);
    expect(replies).toEqual([open, open]);
    expect(await authority.open({ ...request, url: '' }, CHILD)).toEqual(open);
    expect(storage.asked).toHaveLength(1);
    expect(found).toEqual([request.digest]);
    expect(ways.of(request.digest).map(({ lender }) => lender)).toEqual([CHILD, 'other']);
  });

  it("asks again by a URL that came while an attacker's was asked about", async () => {
    storage.refuses = ({ url }) => url.includes('forged');
    const [one, two] = [asked({}, 'forged'), asked({}, 'two')];
    const replies = await Promise.all([
      authority.open(one, 'attacker' as PeerId),
      authority.open(two, CHILD),
      authority.open(one, 'attacker' as PeerId),
    ]);
    expect(replies.map(({ outcome }) => outcome)).toEqual(['no-way', 'open', 'open']);
    expect(ways.of(two.digest).map(({ lender }) => lender)[0]).toBe(CHILD);
  });

  it('takes the URL of a client of this host too', async () => {
    expect((await authority.open(asked(), undefined)).outcome).toBe('open');
  });

  it('has no way without a URL, and takes one that comes later', async () => {
    const { url: _, ...bare } = asked();
    expect(await authority.open(bare, CHILD)).toEqual(NO_WAY);
    expect((await authority.open(asked(), CHILD)).outcome).toBe('open');
  });

  it('believes no word of a host: ETag and size are what the storage says', async () => {
    for (const name of [{ etag: '"other"' }, { sizeBytes: 999 }]) {
      const reply = await authority.open(asked(name), CHILD);
      expect(reply).toMatchObject({ outcome: 'not-found' });
    }
    expect(found).toEqual([]);
  });

  it('asks no server of a hostile host, named as the storage or lent as its URL', async () => {
    expect(await authority.open(asked({}, 'one', 'https://evil.example/'), CHILD)).toEqual(
      NOT_BELIEVED,
    );
    expect(warned).toEqual([
      {
        source: 'https://evil.example/',
        add: 'registries[].opaqueStorage: ["https://evil.example/"]',
      },
    ]);
    await authority.open(asked({}, 'one', 'https://evil.example/'), CHILD);
    expect(warned).toHaveLength(1);
    for (const url of [
      `https://evil.example/${NAME.path}${signature('one')}`,
      `${STORAGE}layers/id/other${signature('one')}`,
      `http://b.example/${NAME.path}${signature('one')}`,
      `${AT}?versionId=2&${signature('one').slice(1)}`,
      AT,
    ]) {
      expect(await authority.open({ ...asked(), url }, CHILD)).toEqual(NO_WAY);
    }
    expect(storage.asked).toEqual([]);
  });

  it('takes no key that is not made of just this name', async () => {
    const content = digestOf(hash, new Uint8Array(1000));
    const { opaque: _, ...plain } = originOf();
    for (const digest of [
      content,
      quarantineKey(hash, content, plain),
      asked({ etag: '"e2"' }).digest,
      asked({ sizeBytes: 1001 }).digest,
    ]) {
      expect(await authority.open({ ...asked(), digest }, CHILD)).toEqual(NOT_BELIEVED);
    }
    // A digest beside the name would be held against the whole.
    const origin = { ...originOf(), content };
    expect(await authority.open({ ...asked(), origin }, CHILD)).toEqual(NOT_BELIEVED);
    expect(storage.asked).toEqual([]);
  });

  it('a signature that works for its own host alone is no way, and no refusal', async () => {
    storage.refuses = () => true;
    expect(await authority.open(asked(), CHILD)).toEqual(NO_WAY);
    expect(ways.of(asked().digest)).toEqual([]);
  });

  it('another ETag at the path ends the blob that was there', async () => {
    const before = asked();
    await authority.open(before, CHILD);
    storage.objects.set(AT, { bytes: new Uint8Array(1000), etag: '"e2"' });
    const after = asked({ etag: '"e2"' });
    expect(await authority.open(after, CHILD)).toMatchObject({
      outcome: 'open',
      key: after.digest,
    });
    expect(changed).toEqual([before.digest]);
    expect(await authority.open(before, CHILD)).toMatchObject({ outcome: 'not-found' });
    expect(changed).toEqual([before.digest]);
  });

  it('forget() has the storage asked again', async () => {
    await authority.open(asked(), CHILD);
    authority.forget(asked().digest);
    storage.objects.delete(AT);
    expect(await authority.open(asked(), CHILD)).toEqual(NO_WAY);
  });

  it('tells neither yes nor no while the storage is away, and keeps the URL', async () => {
    storage.isAway = true;
    expect(await authority.open(asked(), CHILD)).toMatchObject({ outcome: 'unavailable' });
    storage.isAway = false;
    storage.instead = () => ({ status: 503 });
    expect(await authority.open(asked(), CHILD)).toMatchObject({ outcome: 'unavailable' });
    storage.instead = undefined;
    const { url: _, ...bare } = asked();
    expect((await authority.open(bare, CHILD)).outcome).toBe('open');
  });
});
