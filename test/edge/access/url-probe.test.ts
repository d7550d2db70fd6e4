import { Readable } from 'node:stream';
import { beforeEach, describe, expect, it } from 'vitest';
import { UrlProbe } from '../../../src/edge/access/url-probe.ts';
import { FakeStorage } from '../kit/fake-storage.ts';

const URL_AT = 'https://b.example/id/uuid';
const never = new AbortController().signal;

let storage: FakeStorage;
let probe: UrlProbe;

beforeEach(() => {
  storage = new FakeStorage();
  storage.objects.set(URL_AT, { bytes: new Uint8Array(1000), etag: '"e1"' });
  probe = new UrlProbe({ urls: storage });
});

describe('UrlProbe.opaqueAt()', () => {
  it('tells ETag and size by a GET of one byte that follows no redirection', async () => {
    expect(await probe.opaqueAt(`${URL_AT}?s=1`, never)).toEqual({ etag: '"e1"', sizeBytes: 1000 });
    expect(storage.asked).toEqual([
      {
        method: 'GET',
        url: `${URL_AT}?s=1`,
        headers: { range: 'bytes=0-0' },
        followsRedirects: false,
      },
    ]);
  });

  it.each([
    ['no ETag', {}],
    ['a weak ETag', { etag: 'W/"e1"' }],
    ['an ETag without quotes', { etag: 'e1' }],
    ['an ETag of two', { etag: '"e1", "e2"' }],
    ['an empty ETag', { etag: '""' }],
    ['an ETag longer than a message has room for', { etag: `"${'e'.repeat(300)}"` }],
    ['a page', { contentType: 'text/html; charset=utf-8', etag: '"e1"' }],
  ])('tells nothing of %s', async (_, object) => {
    storage.objects.set(URL_AT, { bytes: new Uint8Array(1000), ...object });
    expect(await probe.opaqueAt(URL_AT, never)).toBeUndefined();
  });

  it.each([
    ['a whole answer', 200, { 'content-length': '1000' }],
    ['a part of unknown total', 206, { 'content-range': 'bytes 0-0/*' }],
    ['a part without its place', 206, {}],
    ['a part of more than a blob', 206, { 'content-range': `bytes 0-0/${2 ** 41}` }],
    ['a redirection', 307, { location: 'https://evil.example/x' }],
  ])('tells nothing of %s', async (_, status, headers) => {
    const all = { etag: '"e1"', ...headers };
    storage.instead = () => ({ status, headers: all, body: Readable.from([]) });
    expect(await probe.opaqueAt(URL_AT, never)).toBeUndefined();
  });

  it.each([
    [401, 'unauthorized'],
    [403, 'denied'],
    [404, 'not-found'],
    [429, 'rate-limited'],
    [503, 'unchecked'],
  ])('rejects %i with %s', async (status, code) => {
    storage.instead = () => ({ status });
    await expect(probe.opaqueAt(URL_AT, never)).rejects.toMatchObject({ code });
  });
});

describe('UrlProbe.manifestSizeAt()', () => {
  const digest = `sha256:${'1'.repeat(64)}`;
  const url = `https://r.example/v2/app/manifests/${digest}`;
  const asked = () => storage.asked.map(({ method }) => method);
  const answers = (head: object, get: object) => {
    storage.instead = ({ method }) => (method === 'HEAD' ? head : get);
  };

  it('believes a HEAD that names the digest, and makes no GET', async () => {
    const headers = { 'docker-content-digest': digest, 'content-length': '700' };
    answers({ status: 200, headers }, { status: 500 });
    expect(await probe.manifestSizeAt({ url, authorization: 'Basic x' }, never)).toBe(700);
    expect(storage.asked).toMatchObject([
      { method: 'HEAD', headers: { authorization: 'Basic x' } },
    ]);
  });

  it.each<[string, object]>([
    ['names none', { status: 200, headers: { 'content-length': '700' } }],
    [
      'names another',
      {
        status: 200,
        headers: { 'docker-content-digest': `sha256:${'2'.repeat(64)}`, 'content-length': '700' },
      },
    ],
    ['has no length', { status: 200, headers: { 'docker-content-digest': digest } }],
    ['is refused', { status: 401 }],
    ['is not known', { status: 405 }],
  ])('asks by GET where the HEAD %s', async (_, head) => {
    const get = { status: 200, headers: { 'content-length': '600' } };
    answers(head, get);
    expect(await probe.manifestSizeAt({ url, authorization: undefined }, never)).toBe(600);
    answers(head, { status: 401 });
    const again = probe.manifestSizeAt({ url, authorization: undefined }, never);
    await expect(again).rejects.toMatchObject({ code: 'unauthorized' });
    expect(asked()).toEqual(['HEAD', 'GET', 'HEAD', 'GET']);
  });
});

describe('UrlProbe.sizeAt()', () => {
  const blob = { url: 'https://r.example/v2/app/blobs/x', authorization: undefined };

  it('asks for the whole where ranges are refused, and believes its right alone', async () => {
    let whole: object = { status: 200, headers: { 'content-length': '700' } };
    storage.instead = ({ headers }) => (headers['range'] === undefined ? whole : { status: 416 });
    expect(await probe.sizeAt(blob, never)).toBe(700);
    expect(storage.asked.map(({ method }) => method)).toEqual(['GET', 'GET']);
    whole = { status: 401 };
    await expect(probe.sizeAt(blob, never)).rejects.toMatchObject({ code: 'unauthorized' });
    whole = { status: 416 };
    await expect(probe.sizeAt(blob, never)).rejects.toMatchObject({ code: 'unchecked' });
  });
});
