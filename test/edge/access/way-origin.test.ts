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
import { OriginError, type Origin } from '../../../src/transfer/contracts/origin.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';
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
