import { Readable } from 'node:stream';
import { beforeEach, describe, expect, it } from 'vitest';
import type { AccessError } from '../../../src/edge/access/access-error.ts';
import { WayOrigin } from '../../../src/edge/access/way-origin.ts';
import { Ways } from '../../../src/edge/access/ways.ts';
import type { BlobOrigin } from '../../../src/image/block.ts';
import { opaqueKey } from '../../../src/image/blob-key.ts';
import { digestOf, type Digest } from '../../../src/image/digest.ts';
import { Scatter } from '../../../src/util/scatter.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import {
  OriginError,
  type Origin,
  type OriginBlob,
} from '../../../src/transfer/contracts/origin.ts';
import { protocolError } from '../../../src/registry/errors.ts';
import type { UrlHead, UrlRequest, UrlRun } from '../../../src/registry/url-client.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { FakeStorage, signature } from '../kit/fake-storage.ts';

const AT = 'https://b.example/id/uuid';
const BYTES = new Uint8Array(1000).map((_, i) => i);
const opaque = { path: 'id/uuid', etag: '"e1"', sizeBytes: 1000 };
const origin: BlobOrigin = {
  registry: 'b.example',
  repository: '',
  storage: 'https://b.example/',
  opaque,
};
const hash = new NodeHash();
const key = opaqueKey(hash, origin);
const never = new AbortController().signal;
const LENDER = 'child' as PeerId;

let storage: FakeStorage;
let ways: Ways;
let changed: Digest[];
let unsound: Digest[];
let registryCode: OriginError['code'];
let reader: WayOrigin;

/** A registry that must not be asked. */
const inner = {
  readInto: () => Promise.reject(new OriginError('the registry was asked', { code: registryCode })),
} as unknown as Origin;

beforeEach(() => {
  const clock = new ManualClock();
  storage = new FakeStorage();
  storage.objects.set(AT, { bytes: BYTES, etag: '"e1"' });
  ways = new Ways({ clock });
  changed = [];
  unsound = [];
  registryCode = 'refused';
  const onChanged = (gone: Digest): void => void changed.push(gone);
  reader = new WayOrigin({
    ...{ inner, urls: storage, ways, hash, clock, onChanged },
    onUnsound: (wrong) => void unsound.push(wrong),
    metrics: silentMetrics,
  });
});

async function read(offset = 0, length = 1000, at = origin): Promise<Uint8Array> {
  const target = new Uint8Array(length);
  const blob = { digest: key, sizeBytes: 1000, origin: at };
  await reader.readInto(blob, offset, Scatter.of(target), never);
  return target;
}

describe('WayOrigin, a blob of a registry', () => {
  it('is told when the registry gives what cannot be right, and not when it is away', async () => {
    const at = { registry: 'r.example', repository: 'app' };
    for (const code of ['unavailable', 'not-found', 'protocol'] as const) {
      registryCode = code;
      await expect(read(0, 100, at)).rejects.toMatchObject({ code });
    }
    expect(unsound).toEqual([key]);
  });
});

describe('WayOrigin, an opaque blob', () => {
  it('is read with Range and If-Match alone, by lent URLs and by those of clients', async () => {
    for (const lender of [LENDER, undefined]) {
      const way = { url: `${AT}${signature('one')}`, authorization: undefined };
      ways.add(key, { ...way, ...(lender !== undefined && { lender }) });
      // Of one block: no digest of the content is known, and none is wanted.
      expect(await read()).toEqual(BYTES);
      expect(await read(100, 50)).toEqual(BYTES.subarray(100, 150));
    }
    expect(new Set(storage.asked.map(({ headers }) => JSON.stringify(headers)))).toEqual(
      new Set([
        '{"range":"bytes=0-999","if-match":"\\"e1\\""}',
        '{"range":"bytes=100-149","if-match":"\\"e1\\""}',
      ]),
    );
    expect(storage.asked.every(({ followsRedirects }) => followsRedirects === false)).toBe(true);
  });

  it('without a way is not there, whatever registry its host may be', async () => {
    await expect(read()).rejects.toMatchObject({ code: 'not-found' });
  });

  it.each([
    ['412', { bytes: BYTES, etag: '"e2"' }, undefined],
    ['another ETag, of a server that ignores If-Match', { bytes: BYTES, etag: '"e1"' }, '"e2"'],
    ['another total', { bytes: BYTES.subarray(0, 999), etag: '"e1"' }, undefined],
  ])('%s ends it, and gives no byte of another one', async (_, object, sentEtag) => {
    const way = ways.add(key, { url: `${AT}${signature('one')}`, authorization: undefined });
    ways.add(key, { url: `${AT}${signature('two')}`, authorization: undefined });
    const closed: AccessError[] = [];
    for (const each of ways.of(key)) each.watch((error) => closed.push(error));
    storage.objects.set(AT, object);
    if (sentEtag !== undefined) {
      storage.instead = () => ({
        status: 206,
        headers: { 'content-range': 'bytes 0-99/1000', etag: sentEtag },
        body: Readable.from([BYTES.subarray(0, 100)]),
      });
    }
    await expect(read(0, 100)).rejects.toBeInstanceOf(OriginError);
    expect(changed).toEqual([key]);
    expect(closed.map(({ code }) => code)).toEqual(['other-content']);
    // No other URL of the same path is tried for it.
    expect(storage.asked).toHaveLength(1);
    expect(way.url).toContain('one');
  });

  it.each([
    ['a whole answer', 200, { 'content-length': '1000', etag: '"e1"' }],
    ['a redirection', 307, { location: 'https://evil.example/' }],
    ['a part without an ETag', 206, { 'content-range': 'bytes 0-99/1000' }],
    ['a part of unknown total', 206, { 'content-range': 'bytes 0-99/*', etag: '"e1"' }],
    [
      'a page',
      206,
      { 'content-range': 'bytes 0-99/1000', etag: '"x"', 'content-type': 'text/html' },
    ],
    ['an error', 503, {}],
  ])('%s says nothing of it: nothing is taken and nothing dropped', async (_, status, headers) => {
    ways.add(key, { url: `${AT}${signature('one')}`, authorization: undefined });
    storage.instead = () => ({ status, headers, body: Readable.from([BYTES.subarray(0, 100)]) });
    await expect(read(0, 100)).rejects.toMatchObject({ code: 'unavailable' });
    expect(changed).toEqual([]);
    expect(ways.of(key)).toHaveLength(1);
  });

  it('keeps a lent way whose storage sends all of it once, without a range', async () => {
    ways.add(key, { url: AT, authorization: undefined, lender: LENDER });
    storage.instead = () => ({ status: 200, headers: { 'content-length': '1000' } });
    await expect(read()).rejects.toMatchObject({ code: 'unavailable' });
    expect(ways.of(key)).toHaveLength(1);
  });

  it('goes on with the URL of another client when one has expired', async () => {
    ways.add(key, { url: `${AT}${signature('two')}`, authorization: undefined });
    ways.add(key, { url: `${AT}${signature('one')}`, authorization: undefined });
    storage.refuses = (request) => request.url.includes('Credential=one');
    expect(await read(0, 100)).toEqual(BYTES.subarray(0, 100));
    expect(ways.of(key)).toHaveLength(1);
    expect(changed).toEqual([]);
  });
});

describe('WayOrigin, a blob with a digest', () => {
  it('of one block is held against the digest of the content, which the key is not', async () => {
    const content = digestOf(hash, BYTES);
    const { opaque: _, ...at } = origin;
    ways.add(key, { url: AT, authorization: undefined });
    expect(await read(0, 1000, { ...at, content })).toEqual(BYTES);
    const other = digestOf(hash, BYTES.subarray(1));
    await expect(read(0, 1000, { ...at, content: other })).rejects.toThrow('gave other bytes');
  });
});

const bytes = sampleBytes(1000, 5);
const content = digestOf(hash, bytes);
const blob: OriginBlob = {
  digest: digestOf(hash, new Uint8Array(1)),
  sizeBytes: 1000,
  origin: { registry: 'r.test', repository: 'app', content },
};
const AT_REGISTRY = 'https://r.test/v2/app/blobs/x';

/** An origin whose registry and URLs are played by the test. */
function makeOrigin() {
  const clock = new ManualClock();
  const ways = new Ways({ clock });
  const asked: string[] = [];
  const world = {
    ways,
    asked,
    isRefused: true,
    onUrl: (_token: string, _run: UrlRun): UrlHead | undefined => undefined,
    show: (token: string) => ways.add(blob.digest, { url: AT_REGISTRY, authorization: token }),
  };
  const inner = {
    readInto: async (): Promise<void> => {
      asked.push('own credentials');
      if (world.isRefused) throw new OriginError('refused', { code: 'refused' });
    },
  } as unknown as Origin;
  const fill = async (request: UrlRequest, run: UrlRun): Promise<UrlHead | undefined> => {
    const token = request.headers['authorization'] ?? '';
    asked.push(`${token} from ${run.offset + run.target.filled}`);
    return world.onUrl(token, run);
  };
  const parts = {
    inner,
    urls: { fill },
    ways,
    hash,
    clock,
    onChanged: () => {},
    onUnsound: () => {},
  };
  return { ...world, world, clock, origin: new WayOrigin({ ...parts, metrics: silentMetrics }) };
}

/** Sends the bytes of the run up to this place in the blob. */
function send({ offset, target }: UrlRun, end = 1000): undefined {
  target.write(target.filled, bytes.subarray(offset + target.filled, end));
}

const REFUSED: UrlHead = { status: 401, headers: { 'www-authenticate': 'Bearer realm="x"' } };

describe('WayOrigin.readInto(), a blob that clients have ways to', () => {
  it('tries clients first where only they have a way, else the own credentials', async () => {
    const own = makeOrigin();
    own.world.onUrl = (_, run) => send(run);
    own.show('token');
    const run = () => Scatter.of(new Uint8Array(100));
    await own.origin.readInto({ ...blob, isOwnWay: true }, 500, run(), never);
    expect(own.asked).toEqual(['token from 500']);
    own.asked.length = 0;
    await own.origin.readInto(blob, 500, run(), never);
    await own.origin.readInto(blob, 600, run(), never);
    // A refusal is remembered.
    expect(own.asked).toEqual(['own credentials', 'token from 500', 'token from 600']);
  });

  it('goes on by the next way from where one ends, and tells who showed that one', async () => {
    const { origin, world, asked, show, ways } = makeOrigin();
    const told: string[] = [];
    show('old').watch(() => told.push('old'));
    show('new').watch((error) => told.push(`new: ${error.code}`));
    let sent = 0;
    world.onUrl = (token, run) => {
      if (token === 'old') return send(run);
      if (sent++ > 0) return REFUSED;
      send(run, 50);
      throw protocolError('cut-body', 'cut');
    };
    const target = new Uint8Array(100);
    await origin.readInto({ ...blob, isOwnWay: true }, 0, Scatter.of(target), never);
    expect(asked).toEqual(['new from 0', 'new from 50', 'old from 50']);
    expect(Buffer.from(target).equals(bytes.subarray(0, 100))).toBe(true);
    expect(told).toEqual(['new: unauthorized']);
    expect(ways.of(blob.digest).map(({ authorization }) => authorization)).toEqual(['old']);
  });

  it('does not ask again by a way that brings nothing more', async () => {
    const { origin, world, asked, show, ways } = makeOrigin();
    show('token');
    world.onUrl = () => {
      throw protocolError('cut-body', 'cut');
    };
    const read = origin.readInto(
      { ...blob, isOwnWay: true },
      0,
      Scatter.of(new Uint8Array(9)),
      never,
    );
    await expect(read).rejects.toMatchObject({ code: 'unavailable' });
    expect(asked).toEqual(['token from 0']);
    expect(ways.of(blob.digest)).toHaveLength(1);
  });

  it.each([
    [
      'answers twice with what is no part of it',
      () => {
        throw protocolError('short-body', 'x');
      },
      2,
    ],
    ['answers 400', () => ({ status: 400, headers: {} }), 2],
    ['answers 202', () => ({ status: 202, headers: {} }), 2],
    ['answers 304', () => ({ status: 304, headers: {} }), 2],
  ])('calls a server unsound that %s', async (_, onUrl, count) => {
    const { origin, world, asked, show } = makeOrigin();
    show('token');
    world.onUrl = onUrl;
    const target = Scatter.of(new Uint8Array(9));
    const read = origin.readInto({ ...blob, isOwnWay: true }, 0, target, never);
    await expect(read).rejects.toMatchObject({ code: 'protocol' });
    expect(asked).toHaveLength(count);
  });

  it.each([408, 500])('does not call a server unsound that answers %d', async (status) => {
    const { origin, world, show } = makeOrigin();
    show('token');
    world.onUrl = () => ({ status, headers: {} });
    const target = Scatter.of(new Uint8Array(9));
    const read = origin.readInto({ ...blob, isOwnWay: true }, 0, target, never);
    await expect(read).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('leaves ways alone for longer and longer that bring nothing, for all blocks', async () => {
    const { origin, world, asked, show, clock } = makeOrigin();
    show('token');
    world.onUrl = () => ({ status: 503, headers: {} });
    const read = (offset: number) =>
      origin.readInto({ ...blob, isOwnWay: true }, offset, Scatter.of(new Uint8Array(9)), never);
    for (let ms = 0; ms < 26_000; ms += 100) {
      for (const offset of [0, 100, 200]) {
        await expect(read(offset)).rejects.toMatchObject({ code: 'unavailable' });
      }
      clock.advance(100);
    }
    expect(asked.length).toBeLessThanOrEqual(10);
    const before = asked.length;
    world.onUrl = (token, run) => (token === 'other' ? send(run) : { status: 503, headers: {} });
    show('other');
    await read(0);
    await read(100);
    expect(asked.slice(before).filter((each) => each.startsWith('other'))).toHaveLength(2);
  });

  it('asks by the own credentials when no way is left, and says what these say', async () => {
    const { origin, asked } = makeOrigin();
    const read = origin.readInto(
      { ...blob, isOwnWay: true },
      0,
      Scatter.of(new Uint8Array(9)),
      never,
    );
    await expect(read).rejects.toMatchObject({ code: 'refused' });
    expect(asked).toEqual(['own credentials']);
  });

  it('holds a blob of one block against what was asked for', async () => {
    const { origin, world, show } = makeOrigin();
    show('token');
    world.onUrl = (_, run) => send(run);
    const read = () =>
      origin.readInto({ ...blob, isOwnWay: true }, 0, Scatter.of(new Uint8Array(1000)), never);
    await read();
    world.onUrl = (_, { target }) => void target.write(0, new Uint8Array(1000));
    await expect(read()).rejects.toMatchObject({ code: 'unavailable' });
  });
});
