import { beforeEach, describe, expect, it } from 'vitest';
import { OpaqueBlobs } from '../../../src/edge/access/opaque-blobs.ts';
import { UrlProbe } from '../../../src/edge/access/url-probe.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { opaqueKey } from '../../../src/image/blob-key.ts';
import { opaqueUrlOf, type OpaqueUrl } from '../../../src/registry/opaque-url.ts';
import { BelievedSources } from '../../../src/registry/sources.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { defined } from '../../../src/util/assert.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { FakeStorage, signature } from '../kit/fake-storage.ts';

const PATH_AT = 'https://b.example/layers/id/uuid';
const ACCEPT_MS = 300_000;
const STALE_MS = 3_600_000;
const never = new AbortController().signal;
const hash = new NodeHash();

let storage: FakeStorage;
let clock: ManualClock;
let changed: Digest[];
let opaque: OpaqueBlobs;

function url(signer: string, at = PATH_AT): OpaqueUrl {
  return defined(opaqueUrlOf(`${at}${signature(signer)}`), 'an opaque URL');
}

const keyNow = async (signer: string): Promise<Digest | undefined> =>
  (await opaque.identify(url(signer), never))?.key;

beforeEach(() => {
  storage = new FakeStorage();
  storage.objects.set(PATH_AT, { bytes: new Uint8Array(1000), etag: '"e1"' });
  clock = new ManualClock({ sleeps: 'pass' });
  changed = [];
  const registries = [{ host: 'r.example', opaqueStorage: ['https://b.example/layers/'] }];
  const sources = new BelievedSources({ registries, defaults: false });
  opaque = new OpaqueBlobs(
    {
      probe: new UrlProbe({ urls: storage }),
      sources,
      hash,
      clock,
      onChanged: (key) => {
        changed.push(key);
        opaque.forget(key);
      },
    },
    { acceptMs: ACCEPT_MS, staleMs: STALE_MS },
  );
});

describe('OpaqueBlobs', () => {
  it('gives URLs of all signers of one object one key, made of what the storage says', async () => {
    const found = await opaque.identify(url('one'), never);
    const name = { path: 'layers/id/uuid', etag: '"e1"', sizeBytes: 1000 };
    expect(found?.address).toEqual({
      scheme: 'https',
      registry: 'b.example',
      repository: '',
      storage: 'https://b.example/',
      url: url('one').url,
      opaque: name,
    });
    expect(found?.key).toBe(opaqueKey(hash, defined(found, 'found').address));
    expect(await keyNow('two')).toBe(found?.key);
  });

  it('asks once for each URL, while its right holds, and for all who wait', async () => {
    await Promise.all([keyNow('one'), keyNow('one')]);
    await keyNow('one');
    expect(storage.asked).toHaveLength(1);
    expect(opaque.known(url('one'))?.key).toBe(await keyNow('one'));
    clock.advance(ACCEPT_MS);
    expect(opaque.known(url('one'))).toBeUndefined();
    await keyNow('one');
    expect(storage.asked).toHaveLength(2);
  });

  it('what one client showed opens nothing for another URL', async () => {
    await keyNow('owner');
    storage.refuses = (request) => !request.url.includes('owner');
    expect(opaque.known(url('thief'))).toBeUndefined();
    expect(await keyNow('thief')).toBeUndefined();
    expect(await keyNow('owner')).toBeDefined();
  });

  it('asks no storage that the configuration does not name', async () => {
    const elsewhere = url('one', 'https://evil.example/layers/id/uuid');
    expect(await opaque.identify(elsewhere, never)).toBeUndefined();
    expect(await opaque.identify(url('one', 'https://b.example/id/uuid'), never)).toBeUndefined();
    expect(storage.asked).toEqual([]);
  });

  it('remembers for a minute what is to be passed through, and a refusal for seconds', async () => {
    storage.objects.set(PATH_AT, { bytes: new Uint8Array(1000) });
    expect(await keyNow('one')).toBeUndefined();
    expect(await keyNow('one')).toBeUndefined();
    expect(storage.asked).toHaveLength(1);
    storage.objects.set(PATH_AT, { bytes: new Uint8Array(1000), etag: '"e1"' });
    clock.advance(60_000);
    expect(await keyNow('one')).toBeDefined();
    storage.refuses = () => true;
    expect(await keyNow('old')).toBeUndefined();
    storage.refuses = () => false;
    expect(await keyNow('old')).toBeUndefined();
    clock.advance(5_000);
    expect(await keyNow('old')).toBeDefined();
  });

  it.each([
    ['another ETag', { bytes: new Uint8Array(1000), etag: '"e2"' }],
    ['the same ETag with another total', { bytes: new Uint8Array(999), etag: '"e1"' }],
  ])('%s is another blob, which ends the older one for every URL', async (_, object) => {
    const before = defined(await keyNow('one'), 'a key');
    storage.objects.set(PATH_AT, object);
    const after = await keyNow('two');
    expect(after).not.toBe(before);
    expect(changed).toEqual([before]);
    expect(opaque.known(url('one'))).toBeUndefined();
    expect(await keyNow('one')).toBe(after);
    expect(await opaque.hasChanged(before, url('one'), never)).toBe(true);
    expect(await opaque.hasChanged(defined(after, 'a key'), url('one'), never)).toBe(false);
  });

  it('forget() has the storage asked again, also within the time of the right', async () => {
    const key = defined(await keyNow('one'), 'a key');
    opaque.forget(key);
    expect(opaque.known(url('one'))).toBeUndefined();
    await keyNow('one');
    expect(storage.asked).toHaveLength(2);
  });

  it('hasChanged() asks the storage itself', async () => {
    const key = defined(await keyNow('one'), 'a key');
    expect(await opaque.hasChanged(key, url('one'), never)).toBe(false);
    storage.objects.set(PATH_AT, { bytes: new Uint8Array(1000), etag: '"e2"' });
    expect(await opaque.hasChanged(key, url('one'), never)).toBe(true);
    expect(changed).toEqual([key]);
  });

  it('an expired right counts while the storage is away, for its URL alone', async () => {
    const key = await keyNow('one');
    clock.advance(ACCEPT_MS);
    storage.isAway = true;
    expect(await keyNow('one')).toBe(key);
    expect(await keyNow('two')).toBeUndefined();
    clock.advance(STALE_MS);
    expect(await keyNow('one')).toBeUndefined();
  });

  it('a right that was refused does not come back when the storage goes away', async () => {
    await keyNow('one');
    clock.advance(ACCEPT_MS);
    storage.refuses = () => true;
    expect(await keyNow('one')).toBeUndefined();
    clock.advance(5_000);
    storage.isAway = true;
    expect(await keyNow('one')).toBeUndefined();
  });

  it('asks a bounded number of questions at a time, and passes the rest through', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { open } = storage;
    storage.open = async (...asked) => {
      await promise;
      return open(...asked);
    };
    const all = Array.from({ length: 600 }, (_, i) => keyNow(`signer-${i}`));
    resolve();
    const keys = await Promise.all(all);
    expect(keys.filter((key) => key !== undefined)).toHaveLength(64 + 512);
    expect(keys.at(-1)).toBeUndefined();
  });

  it('a client that leaves does not end the question for the others', async () => {
    const leaving = new AbortController();
    const gone = opaque.identify(url('one'), leaving.signal);
    const stays = opaque.identify(url('one'), never);
    leaving.abort(new Error('gone'));
    await expect(gone).rejects.toThrow('gone');
    expect(await stays).toBeDefined();
  });
});
