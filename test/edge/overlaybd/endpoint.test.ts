import { EventEmitter, once } from 'node:events';
import { Agent, request, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlobEndpoint, type BlobEndpointComponents } from '../../../src/edge/overlaybd/endpoint.ts';
import { BlobSender } from '../../../src/edge/http/blob-sender.ts';
import { LocalServer } from '../../../src/edge/http/local-server.ts';
import { AccessError } from '../../../src/edge/access/access-error.ts';
import { Way } from '../../../src/edge/access/ways.ts';
import type {
  BlobAddress,
  BlobGate,
  GateRequest,
  GrantedBlob,
} from '../../../src/edge/access/contract.ts';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import type { OpaqueBlob } from '../../../src/edge/access/opaque-blobs.ts';
import type { BlobRef } from '../../../src/image/block.ts';
import { opaqueKey } from '../../../src/image/blob-key.ts';
import type { Digest } from '../../../src/image/digest.ts';
import type { OpaqueUrl } from '../../../src/registry/opaque-url.ts';
import type { Hasher } from '../../../src/runtime/codec.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import type { BlobReader } from '../../../src/transfer/contracts/blob-reader.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { signature } from '../kit/fake-storage.ts';
import { Failure } from '../../kit/twins.ts';
import { RegistryError } from '../../../src/registry/errors.ts';
import { TransferError } from '../../../src/transfer/contracts/errors.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { peerError } from '../../../src/transfer/contracts/transport.ts';
import { peerId } from '../../../src/util/peer-id.ts';

const HEX = 'ab'.repeat(32);
const TARGET = `/dadip2p/https://r.example/v2/team/app/blobs/sha256:${HEX}`;
const MIB = 1024 * 1024;

/**
 * One blob in memory. `open` and `read` can be made to fail or to hang; both note what they are
 * asked.
 */
class Twin implements BlobReader, BlobGate {
  bytes: Buffer = pattern(10_000);
  cached = false;
  onOpen: (signal: AbortSignal) => Promise<void> = async () => {};
  onRead: (offset: number, signal: AbortSignal | undefined) => Promise<void> = async () => {};
  onCheck: () => Promise<void> = async () => {};
  isShared = true;
  readonly checked: { address: BlobAddress; authorization: string | undefined }[] = [];
  readonly ways: Way[] = [];
  readonly reads: { offset: number; length: number }[] = [];

  async open({ digest, address, authorization, signal }: GateRequest): Promise<GrantedBlob> {
    this.checked.push({ address, authorization });
    await this.onCheck();
    await this.onOpen(signal);
    const way = new Way({ url: address.url, authorization, nowMs: 0 });
    this.ways.push(way);
    const { isShared } = this;
    return { blob: { digest, sizeBytes: this.bytes.length }, isShared, way };
  }

  opened({ digest }: Omit<GateRequest, 'signal'>) {
    if (!this.cached) return undefined;
    return { blob: { digest, sizeBytes: this.bytes.length }, isShared: this.isShared };
  }

  async read(
    _: BlobRef,
    offset: number,
    length: number,
    options: { signal?: AbortSignal },
  ): Promise<Uint8Array> {
    this.reads.push({ offset, length });
    await this.onRead(offset, options.signal);
    return new Uint8Array(this.bytes.subarray(offset, offset + length));
  }

  readCached(_: BlobRef, offset: number, length: number): Uint8Array | undefined {
    return this.cached ? this.bytes.subarray(offset, offset + length) : undefined;
  }
}

/** What stands at every URL without a digest. */
class StorageTwin {
  etag: string | undefined = '"e1"';
  isAsked = 0;
  isKnown = false;

  known(url: OpaqueUrl): OpaqueBlob | undefined {
    return this.isKnown ? this.#blobAt(url) : undefined;
  }

  async identify(url: OpaqueUrl): Promise<OpaqueBlob | undefined> {
    this.isAsked++;
    return this.#blobAt(url);
  }

  async hasChanged(key: Digest, url: OpaqueUrl): Promise<boolean> {
    return this.#blobAt(url)?.key !== key;
  }

  #blobAt({ scheme, storage, host, path, url }: OpaqueUrl): OpaqueBlob | undefined {
    if (this.etag === undefined) return undefined;
    const opaque = { path, etag: this.etag, sizeBytes: twin.bytes.length };
    const origin = { registry: host, repository: '', storage, opaque };
    return { key: opaqueKey(new NodeHash(), origin), address: { ...origin, scheme, url } };
  }
}

function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + (i >> 8)) & 0xff;
  return bytes;
}

let twin: Twin;
let storage: StorageTwin;
let clock: ManualClock;
let metrics: PromMetrics;
let server: LocalServer;
let agent: Agent;
/** What the bytes of the blob hash to. */
let digestFound: Buffer;
let passed: BlobEndpointComponents['passThrough']['answer'];

/** A hash that finds what the test says. */
class HashTwin extends NodeHash {
  override sha256Stream(): Hasher {
    return { update: () => {}, digest: () => digestFound };
  }
}

async function startServer(prefix: string, connectionsMax = 100): Promise<void> {
  const endpoint = new BlobEndpoint(
    {
      gate: twin,
      opaque: storage,
      reader: twin,
      passThrough: { answer: (...asked) => passed(...asked) },
      sender: new BlobSender({ reader: twin, hash: new HashTwin(), clock, metrics }),
      clock,
      logger: silentLogger,
      metrics,
    },
    { prefix, isConfigured: (host) => host !== 'stranger.test' },
  );
  server = new LocalServer(
    { routes: [endpoint], clock, metrics },
    { listen: { host: '127.0.0.1', port: 0 }, connectionsMax },
  );
  await server.start();
}

beforeEach(async () => {
  twin = new Twin();
  storage = new StorageTwin();
  digestFound = Buffer.from(HEX, 'hex');
  clock = new ManualClock();
  metrics = new PromMetrics({ processMetrics: false });
  agent = new Agent({ keepAlive: true });
  await startServer('dadip2p');
});
afterEach(async () => {
  agent.destroy();
  await server.stop();
});

interface Ask {
  readonly method?: string;
  readonly headers?: Record<string, string>;
}

async function open(path: string, ask: Ask = {}): Promise<IncomingMessage> {
  const { hostname, port } = new URL(server.url);
  const sent = request({
    hostname,
    port,
    path,
    agent,
    method: ask.method ?? 'GET',
    headers: ask.headers ?? {},
  });
  sent.end();
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  return response;
}

async function get(path: string, ask: Ask = {}) {
  const response = await open(path, ask);
  const pieces: Buffer[] = [];
  for await (const piece of response) pieces.push(piece as Buffer);
  return { status: response.statusCode, headers: response.headers, body: Buffer.concat(pieces) };
}

/** Sends the text as it is on a connection of its own, and gives all that comes back. */
async function raw(text: string): Promise<string> {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.write(text);
  const pieces: Buffer[] = [];
  for await (const piece of socket) pieces.push(piece as Buffer);
  return Buffer.concat(pieces).toString('latin1');
}

describe('BlobEndpoint answers', () => {
  it.each([
    ['bytes=0-99', 0, 100],
    ['bytes=9000-', 9000, 1000],
    ['bytes=-7', 9993, 7],
    ['bytes=9999-20000', 9999, 1],
  ])('206 to %s, with exactly those bytes', async (range, offset, length) => {
    for (const cached of [false, true]) {
      twin.cached = cached;
      const answer = await get(TARGET, { headers: { range } });
      expect(answer.status).toBe(206);
      expect(answer.headers['content-range']).toBe(
        `bytes ${offset}-${offset + length - 1}/${twin.bytes.length}`,
      );
      expect(answer.headers['content-length']).toBe(String(length));
      expect(answer.body.equals(twin.bytes.subarray(offset, offset + length))).toBe(true);
    }
    expect(twin.reads).toEqual([{ offset, length }]);
  });

  it('500 when memory has fewer bytes than asked for, never bytes of a used buffer', async () => {
    twin.cached = true;
    await get(TARGET, { headers: { range: 'bytes=0-99' } });
    const { bytes } = twin;
    // The directory says 10,000 bytes, the reader has the first 50 alone.
    twin.readCached = (_, offset) => bytes.subarray(offset, 50);
    const answer = await get(TARGET, { headers: { range: 'bytes=0-99' } });
    expect(answer.status).toBe(500);
    expect(answer.body.includes(bytes.subarray(0, 16))).toBe(false);
  });

  it('200 with the whole blob, in pieces of a block at most', async () => {
    twin.bytes = pattern(3 * MIB + 5);
    const answer = await get(TARGET);
    expect(answer.status).toBe(200);
    expect(answer.headers['content-range']).toBeUndefined();
    expect(answer.headers.etag).toBe(`"sha256:${HEX}"`);
    expect(answer.body.equals(twin.bytes)).toBe(true);
    expect(twin.reads.map((read) => read.length)).toEqual([
      ...Array.from({ length: 12 }, () => MIB / 4),
      5,
    ]);
  });

  it('206 to a range of more than a piece', async () => {
    twin.bytes = pattern(3 * MIB);
    const answer = await get(TARGET, { headers: { range: 'bytes=1-' } });
    expect(answer.status).toBe(206);
    expect(answer.body.equals(twin.bytes.subarray(1))).toBe(true);
  });

  it('an empty blob', async () => {
    twin.bytes = Buffer.alloc(0);
    expect(await get(TARGET)).toMatchObject({ status: 200, headers: { 'content-length': '0' } });
    for (const range of ['bytes=0-', 'bytes=0-0']) {
      const answer = await get(TARGET, { headers: { range } });
      expect([answer.status, answer.body.length]).toEqual([200, 0]);
    }
    digestFound = Buffer.alloc(32);
    expect((await get(TARGET)).status).toBe(502);
  });

  it('HEAD without reading, whatever the range', async () => {
    const answer = await get(TARGET, { method: 'HEAD', headers: { range: 'bytes=0-1' } });
    expect(answer).toMatchObject({
      status: 200,
      headers: { 'content-length': '10000', 'accept-ranges': 'bytes' },
    });
    expect(answer.body).toHaveLength(0);
    expect(twin.reads).toEqual([]);
  });

  it('several requests on one connection', async () => {
    const sockets = new Set<unknown>();
    for (let i = 0; i < 3; i++) {
      const response = await open(TARGET, { headers: { range: 'bytes=0-9' } });
      sockets.add(response.socket);
      response.resume();
      await once(response, 'end');
      // The agent takes the socket back after the end.
      await new Promise((resolve) => process.nextTick(resolve));
    }
    expect(sockets.size).toBe(1);
  });

  it('416 to what is no range of the blob', async () => {
    for (const range of ['bytes=10000-', 'bytes=10000-,20000-', 'bytes=x']) {
      const answer = await get(TARGET, { headers: { range } });
      expect(answer).toMatchObject({ status: 416, headers: { 'content-range': 'bytes */10000' } });
      expect(JSON.parse(answer.body.toString())).toMatchObject({ code: 'range' });
    }
  });
});

describe('BlobEndpoint and several ranges', () => {
  it.each(['bytes=0-3,100-200', 'bytes=0-0,-1', 'bytes=0-9, 5-20'])(
    '200 with all of it to %s',
    async (range) => {
      for (const cached of [false, true]) {
        twin.cached = cached;
        const answer = await get(TARGET, { headers: { range } });
        expect(answer.status).toBe(200);
        expect(answer.body.equals(twin.bytes)).toBe(true);
      }
    },
  );
});

describe('BlobEndpoint targets', () => {
  it('refuses a URL that two servers may read in two ways', async () => {
    for (const path of ['a/../b', 'a%2fb', 'a%5cb', 'a%252e']) {
      const answer = await get(`/dadip2p/https://r.example/v2/${path}/blobs/sha256:${HEX}`);
      expect(answer.status, path).toBe(400);
      expect(JSON.parse(answer.body.toString())).toMatchObject({ code: 'ambiguous-url' });
    }
    expect(twin.checked).toEqual([]);
  });

  it('hands the origin URL and the credentials on as they came', async () => {
    const url = `https:/s3.example/sha256/ab/${HEX}/data?X-Sig=a%2Fb%3D&e=%20`;
    await get(`/dadip2p/${url}`, { headers: { authorization: 'Bearer t', range: 'bytes=0-0' } });
    await get(TARGET, { headers: { range: 'bytes=0-0' } });
    expect(twin.checked).toEqual([
      {
        address: {
          scheme: 'https',
          registry: 's3.example',
          repository: '',
          storage: 'https://s3.example/',
          url: url.replace(':/', '://'),
        },
        authorization: 'Bearer t',
      },
      {
        address: {
          scheme: 'https',
          registry: 'r.example',
          repository: 'team/app',
          url: TARGET.slice(9),
        },
        authorization: undefined,
      },
    ]);
  });

  it('answers under the empty prefix', async () => {
    await server.stop();
    await startServer('');
    expect(
      (await get(TARGET.slice('/dadip2p'.length), { headers: { range: 'bytes=0-0' } })).status,
    ).toBe(206);
    expect((await get('/v2/')).status).toBe(404);
  });

  it.each([
    ['/', 404, 'not-found'],
    ['/dadip2p/', 404, 'no-url'],
  ])('says why %s is no blob', async (path, status, code) => {
    const answer = await get(path);
    expect(answer.status).toBe(status);
    expect(JSON.parse(answer.body.toString())).toMatchObject({ code });
  });

  it('refuses other methods', async () => {
    const answer = await get(TARGET, { method: 'POST' });
    expect(answer).toMatchObject({ status: 405, headers: { allow: 'GET, HEAD' } });
  });

  it('survives odd requests on the wire', async () => {
    const rest = 'Host: localhost\r\nConnection: close\r\n\r\n';
    expect(await raw(`GET ${TARGET}?a=%zz|"\xe9 HTTP/1.1\r\nRange: bytes=0-0\r\n${rest}`)).toMatch(
      /^HTTP\/1.1 (206|400) /,
    );
    expect(await raw(`GET http://127.0.0.1${TARGET} HTTP/1.1\r\n${rest}`)).toMatch(
      /^HTTP\/1.1 404 /,
    );
    expect(await raw(`OPTIONS * HTTP/1.1\r\n${rest}`)).toMatch(/^HTTP\/1.1 404 /);
    expect(await raw(`GET ${TARGET} HTTP/1.0\r\nRange: bytes=0-0\r\n\r\n`)).toMatch(
      /^HTTP\/1.1 206 /,
    );
    expect(
      await raw(`GET ${TARGET} HTTP/1.1\r\nRange: bytes=0-0\r\nRange: bytes=1-1\r\n${rest}`),
    ).toMatch(/^HTTP\/1.1 (206|416) /);
    expect(await raw(`GET /${'x'.repeat(20_000)} HTTP/1.1\r\n${rest}`)).toMatch(/^HTTP\/1.1 431 /);
    expect(await raw('\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n')).toMatch(/^HTTP\/1.1 400 /);
    expect((await get(TARGET, { headers: { range: 'bytes=0-0' } })).status).toBe(206);
  });
});

describe('BlobEndpoint and If-*', () => {
  const ETAG = `"sha256:${HEX}"`;

  it.each([
    ['if-none-match', ETAG, 304],
    ['if-none-match', `"x", W/${ETAG}`, 304],
    ['if-none-match', '"x"', 206],
    ['if-match', '*', 206],
    ['if-match', '"x"', 412],
    ['if-range', ETAG, 206],
    ['if-range', '"x"', 200],
    ['if-range', 'Tue, 01 Jan 2030 00:00:00 GMT', 200],
    ['if-modified-since', 'Tue, 01 Jan 2030 00:00:00 GMT', 206],
  ])('%s: %s is a %i', async (name, value, status) => {
    for (const cached of [false, true]) {
      twin.cached = cached;
      const answer = await get(TARGET, { headers: { range: 'bytes=0-9', [name]: value } });
      expect(answer.status).toBe(status);
      if (status === 206) expect(answer.body.equals(twin.bytes.subarray(0, 10))).toBe(true);
      if (status === 304) expect(answer.body).toHaveLength(0);
    }
  });
});

describe('BlobEndpoint and the right to read', () => {
  it('checks access before any byte of a blob is sent, also from memory', async () => {
    twin.onCheck = async () => {
      throw new AccessError('no', { code: 'unauthorized', challenges: ['Basic realm="x"', 'B'] });
    };
    const answer = await get(TARGET, { headers: { range: 'bytes=0-9' } });
    expect(answer).toMatchObject({
      status: 401,
      headers: { 'www-authenticate': 'Basic realm="x", B' },
    });
    expect(twin.reads).toEqual([]);
  });

  it('answers at once when the grant of the client has ended', async () => {
    twin.onRead = async () => {
      twin.ways[0]?.close(new AccessError('late', { code: 'denied', challenges: [] }));
      await new Promise(() => {});
    };
    expect((await get(TARGET, { headers: { range: 'bytes=0-9' } })).status).toBe(403);
  });

  it('passes through a URL without a digest', async () => {
    const urls: string[] = [];
    passed = async (_, { response }, { url, onStart }) => {
      urls.push(url);
      response.writeHead(206).end('passed');
      onStart(206);
    };
    const other = 'https://r.example/v2/app/manifests/latest?a=%2F';
    expect((await get(`/dadip2p/${other}`)).body.toString()).toBe('passed');
    expect(urls).toEqual([other]);
  });
});

describe('BlobEndpoint and plain HTTP', () => {
  it('passes blobs of a registry that nobody configured through: anybody can play it', async () => {
    twin.cached = true;
    const plain = `http://stranger.test/v2/app/blobs/sha256:${HEX}`;
    const headers = { range: 'bytes=0-9', authorization: 'Bearer forged' };
    const urls: string[] = [];
    passed = async (_, { response }, { url: to }) => {
      urls.push(to);
      response.end('passed');
    };
    expect((await get(`/dadip2p/${plain}`, { headers })).body.toString()).toBe('passed');
    expect(urls).toEqual([plain]);
    expect(twin.reads).toEqual([]);
    const secure = plain.replace('http:', 'https:');
    expect((await get(`/dadip2p/${secure}`, { headers })).status).toBe(206);
  });
});

describe('BlobEndpoint and objects without a digest', () => {
  const url = `https://b.example/id/uuid${signature('one')}`;
  const target = `/dadip2p/${url}`;
  const part = { headers: { range: 'bytes=0-99' } };
  let passedUrls: string[];

  beforeEach(() => {
    passedUrls = [];
    passed = async (_, { response }, { url: to }) => {
      passedUrls.push(to);
      response.end('passed');
    };
  });

  it('serves what the storage tells apart as a blob, with its ETag', async () => {
    const answer = await get(target, part);
    expect(answer).toMatchObject({
      status: 206,
      headers: { etag: '"e1"', 'content-range': 'bytes 0-99/10000' },
    });
    expect(answer.body.equals(twin.bytes.subarray(0, 100))).toBe(true);
    expect((await get(target, { headers: { 'if-match': '"other"' } })).status).toBe(412);
    expect((await get(target, { method: 'HEAD' })).headers['content-length']).toBe('10000');
    expect(twin.checked[0]).toMatchObject({ address: { url, repository: '' } });
    expect(passedUrls).toEqual([]);
  });

  it('sends a whole one although its sha256 is not known', async () => {
    digestFound = Buffer.alloc(32);
    const answer = await get(target);
    expect(answer.status).toBe(200);
    expect(answer.body.equals(twin.bytes)).toBe(true);
    expect(answer.headers).not.toHaveProperty('docker-content-digest');
  });

  it('answers from memory what this very URL has opened, and asks for any other', async () => {
    [twin.cached, storage.isKnown] = [true, true];
    expect((await get(target, part)).headers.etag).toBe('"e1"');
    expect([storage.isAsked, twin.reads.length]).toEqual([0, 0]);
    storage.isKnown = false;
    await get(target, part);
    expect(storage.isAsked).toBe(1);
  });

  it.each([
    ['that tell nothing apart', () => (storage.etag = undefined)],
    [
      'that the gate refuses',
      () => (twin.onCheck = () => Promise.reject(new AccessError('no', { code: 'unchecked' }))),
    ],
  ])('passes through those %s', async (_, change) => {
    change();
    expect((await get(target, part)).body.toString()).toBe('passed');
    [twin.cached, storage.isKnown] = [true, true];
    expect(passedUrls[0]).toBe(url);
    expect(twin.reads).toEqual([]);
  });

  it('passes a request with an Authorization through: a storage refuses both at once', async () => {
    [twin.cached, storage.isKnown] = [true, true];
    const headers = { ...part.headers, authorization: 'Bearer t' };
    expect((await get(target, { headers })).body.toString()).toBe('passed');
  });

  it('passes through a URL with other parameters than a signature', async () => {
    const answer = await get(`${target}&versionId=1`, part);
    expect(answer.body.toString()).toBe('passed');
    expect(storage.isAsked).toBe(0);
  });

  it('gives what stands there when the object changes while it is read', async () => {
    const before = twin.bytes;
    twin.onRead = async () => {
      if (storage.etag === '"e2"') return;
      storage.etag = '"e2"';
      twin.bytes = pattern(7_777).reverse();
      const error = new AccessError('changed', { code: 'other-content' });
      twin.ways.at(-1)?.close(error);
      await new Promise((resolve) => setImmediate(resolve));
    };
    const answer = await get(target, part);
    expect(answer.headers).toMatchObject({ etag: '"e2"', 'content-range': 'bytes 0-99/7777' });
    expect(answer.body.equals(twin.bytes.subarray(0, 100))).toBe(true);
    expect(answer.body.equals(before.subarray(0, 100))).toBe(false);
  });

  it('begins anew when a read fails because somebody else noticed the change', async () => {
    twin.onRead = async () => {
      if (storage.etag === '"e2"') return;
      storage.etag = '"e2"';
      throw new TransferError('nobody has it', { code: 'unknown-blob' });
    };
    expect((await get(target, part)).headers.etag).toBe('"e2"');
  });

  it('fails when nothing has changed, or all changes faster than it is read', async () => {
    twin.onRead = () => Promise.reject(new TransferError('no', { code: 'unknown-blob' }));
    expect((await get(target, part)).status).toBe(502);
    expect(twin.reads).toHaveLength(1);
    let version = 1;
    twin.onRead = () => {
      storage.etag = `"v${version++}"`;
      return Promise.reject(new TransferError('no', { code: 'unknown-blob' }));
    };
    expect((await get(target, part)).status).toBe(502);
    expect(twin.reads).toHaveLength(4);
  });

  it('tells a client at once when its own signature has ended', async () => {
    twin.onRead = (_, signal) => {
      twin.ways.at(-1)?.close(new AccessError('expired', { code: 'denied', challenges: [] }));
      return new Promise((_resolve, reject) =>
        signal?.addEventListener('abort', () => reject(signal.reason as Error)),
      );
    };
    expect((await get(target, part)).status).toBe(403);
  });
});

describe('BlobEndpoint and whole blobs', () => {
  it('cuts off a whole blob whose content differs from its digest', async () => {
    digestFound = Buffer.alloc(32);
    const small = await get(TARGET);
    expect(small.status).toBe(502);
    expect(JSON.parse(small.body.toString())).toMatchObject({ code: 'bad-content' });
    twin.bytes = pattern(6 * MIB);
    await expect(get(TARGET)).rejects.toThrow(/aborted/);
    await expect(get(TARGET, { headers: { range: 'bytes=0-' } })).rejects.toThrow(/aborted/);
  });
});

describe('LocalServer', () => {
  it('closes connections beyond the maximum, and counts them', async () => {
    await server.stop();
    await startServer('dadip2p', 2);
    const { port } = new URL(server.url);
    const held = [connect(Number(port), '127.0.0.1'), connect(Number(port), '127.0.0.1')];
    await Promise.all(held.map((socket) => once(socket, 'connect')));
    expect(await raw('')).toBe('');
    expect(await metrics.text()).toContain('xylem_local_connections_refused_total 1');
    expect(await metrics.text()).toContain('xylem_local_connections 2');
    held[0]?.destroy();
    await once(held[0] as EventEmitter, 'close');
    for (const socket of held) socket.destroy();
  });
});

describe('BlobEndpoint failures', () => {
  it.each([
    [new AccessError('no', { code: 'unauthorized', challenges: [] }), 401],
    [new AccessError('no', { code: 'denied', challenges: [] }), 403],
    [new OriginError('no', { code: 'not-found' }), 404],
    [new TransferError('no', { code: 'overloaded' }), 503],
    [new AccessError('no', { code: 'unchecked' }), 503],
    [new RegistryError('no', { code: 'timeout', timeoutMs: 1 }), 504],
    [new TransferError('no', { code: 'deadline', waitedMs: 1 }), 504],
    [new OriginError('no', { code: 'unavailable' }), 502],
    [new RegistryError('no', { code: 'rate-limited', retryAfterMs: 2500 }), 429],
    [peerError(peerId('p'), { code: 'not-found' }), 502],
    [new Failure('not-found'), 502],
  ])('before the first byte: %s is a clean %i', async (error, status) => {
    twin.onOpen = async () => {
      throw error;
    };
    expect((await get(TARGET)).status).toBe(status);
    twin.onOpen = async () => {};
    twin.onRead = async () => {
      throw error;
    };
    const answer = await get(TARGET, { headers: { range: 'bytes=0-99' } });
    expect(answer.status).toBe(status);
    expect(answer.headers['content-range']).toBeUndefined();
    expect(JSON.parse(answer.body.toString())).toEqual({ error: error.message, code: error.code });
  });

  it('says when to ask again, where that is known', async () => {
    for (const [error, seconds] of [
      [new RegistryError('no', { code: 'rate-limited', retryAfterMs: 2500 }), '3'],
      [new TransferError('no', { code: 'overloaded' }), '1'],
    ] as const) {
      twin.onRead = () => Promise.reject(error);
      const answer = await get(TARGET, { headers: { range: 'bytes=0-99' } });
      expect(answer.headers['retry-after']).toBe(seconds);
    }
  });

  it('gives the last reason of a read that was in vain', async () => {
    twin.onRead = async () => {
      const cause = new OriginError('r.example gave other bytes', { code: 'unavailable' });
      throw new TransferError('not read', { code: 'deadline', waitedMs: 1 }, { cause });
    };
    const answer = await get(TARGET, { headers: { range: 'bytes=0-9' } });
    expect(answer.status).toBe(504);
    expect(JSON.parse(answer.body.toString())).toMatchObject({
      error: 'not read: r.example gave other bytes',
    });
  });

  it('says nothing of the inside of other errors', async () => {
    twin.onRead = async () => {
      throw new Error('secret');
    };
    const answer = await get(TARGET);
    expect(answer.status).toBe(500);
    expect(answer.body.toString()).not.toContain('secret');
  });

  it('is a 504 when nothing comes until the deadline, below the 30 s of overlaybd', async () => {
    const aborted: unknown[] = [];
    twin.onRead = async (_, signal) => {
      signal?.addEventListener('abort', () => aborted.push(signal.reason));
      queueMicrotask(() => {
        expect(clock.delays).toEqual([25_000]);
        clock.fireAll();
      });
      await new Promise(() => {});
    };
    const answer = await get(TARGET, { headers: { range: 'bytes=0-9' } });
    expect(answer.status).toBe(504);
    expect(JSON.parse(answer.body.toString())).toMatchObject({ code: 'timeout' });
    expect(aborted).toHaveLength(1);
  });

  it('cuts the connection when a later piece fails', async () => {
    twin.bytes = pattern(6 * MIB);
    twin.onRead = async (offset) => {
      if (offset >= 5 * MIB) throw new Failure('unavailable');
    };
    const response = await open(TARGET, { headers: { range: 'bytes=0-' } });
    expect(response.statusCode).toBe(206);
    let received = 0;
    const whole = (async () => {
      for await (const piece of response) received += (piece as Buffer).length;
    })();
    await expect(whole).rejects.toThrow(/aborted/);
    expect(received).toBeLessThanOrEqual(5 * MIB);
  });

  it('gives up when the client goes away', async () => {
    const gone = Promise.withResolvers<unknown>();
    const reading = Promise.withResolvers<void>();
    twin.onRead = async (_, signal) => {
      signal?.addEventListener('abort', () => gone.resolve(signal.reason));
      reading.resolve();
      await new Promise(() => {});
    };
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
    socket.write(`GET ${TARGET} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    await reading.promise;
    socket.destroy();
    expect(await gone.promise).toBeInstanceOf(Error);
  });

  it('reads no further than the client takes', async () => {
    // The sockets of both sides hold some MiB; without backpressure the lead would be the whole
    // blob at once.
    twin.bytes = Buffer.alloc(64 * MIB);
    let received = 0;
    let leadMax = 0;
    twin.onRead = async (offset) => {
      leadMax = Math.max(leadMax, offset - received);
    };
    const response = await open(TARGET);
    for await (const piece of response) received += (piece as Buffer).length;
    expect(received).toBe(64 * MIB);
    expect(leadMax).toBeLessThan(32 * MIB);
  });
});

describe('BlobEndpoint and clients that take or hold places', () => {
  const ASK = `GET ${TARGET} HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-9\r\n\r\n`;

  async function connectAll(count: number): Promise<Socket[]> {
    const { port } = new URL(server.url);
    const sockets = Array.from({ length: count }, () => connect(Number(port), '127.0.0.1'));
    await Promise.all(sockets.map((socket) => once(socket, 'connect')));
    for (const socket of sockets) socket.write(ASK);
    return sockets;
  }

  it('works for no client that left while it waited in line', async () => {
    await server.stop();
    await startServer('dadip2p', 2000);
    const checked = new EventEmitter();
    const free = Promise.withResolvers<void>();
    twin.onCheck = () => {
      checked.emit('checked');
      return free.promise;
    };
    const running = await connectAll(256);
    while (twin.checked.length < 256) await once(checked, 'checked');
    const leaving = await connectAll(300);
    for (const socket of leaving) socket.destroy();
    while (!(await metrics.text()).includes('xylem_local_connections 256\n')) {
      await new Promise(setImmediate);
    }
    const last = get(TARGET, { headers: { range: 'bytes=0-9', authorization: 'last' } });
    free.resolve();
    expect((await last).status).toBe(206);
    expect(twin.checked).toHaveLength(257);
    expect(twin.checked.at(-1)?.authorization).toBe('last');
    for (const socket of running) socket.destroy();
  });

  it('cuts off a stream that its client takes too slowly', async () => {
    twin.bytes = Buffer.alloc(64 * MIB);
    const response = await open(TARGET);
    while (!clock.delays.includes(16_000)) await new Promise(setImmediate);
    clock.advance(16_000);
    await expect(
      (async () => {
        for await (const piece of response) void piece;
      })(),
    ).rejects.toThrow(/aborted/);
  });
});

describe('BlobEndpoint and its surroundings', () => {
  it('counts requests and bytes', async () => {
    await get(TARGET, { headers: { range: 'bytes=0-99' } });
    await get('/dadip2p/nothing');
    const text = await metrics.text();
    expect(text).toContain('xylem_local_requests_total{status="206"} 1');
    expect(text).toContain('xylem_local_requests_total{status="404"} 1');
    expect(text).toContain('xylem_local_response_bytes_total 100');
    expect(text).toContain('xylem_local_first_byte_seconds_count 1');
  });

  it('gives the room of an answer back when its client has it', async () => {
    twin.bytes = pattern(3 * MIB);
    await get(TARGET, { headers: { range: 'bytes=0-99999' } });
    await get(TARGET);
    const text = async (): Promise<string> => metrics.text();
    expect(await text()).toContain('xylem_local_held_bytes{kind="stream"}');
    while (/xylem_local_held_bytes\{.*\} [1-9]/.test(await text())) await new Promise(setImmediate);
    expect(await text()).toContain('xylem_local_held_bytes{kind="read"} 0');
  });

  it('LocalServer.stop() lets an answer in flight finish', async () => {
    const reading = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    twin.onRead = async () => {
      reading.resolve();
      await goOn.promise;
    };
    const answer = get(TARGET, { headers: { range: 'bytes=0-9' } });
    await reading.promise;
    const stopped = server.stop();
    goOn.resolve();
    expect((await answer).status).toBe(206);
    agent.destroy();
    await stopped;
  });

  it('LocalServer.stop() cuts what does not finish in its time', async () => {
    const reading = Promise.withResolvers<void>();
    twin.onRead = async () => {
      reading.resolve();
      await new Promise(() => {});
    };
    const answer = get(TARGET, { headers: { range: 'bytes=0-9' } });
    await reading.promise;
    const stopped = server.stop();
    expect(clock.delays).toContain(5_000);
    clock.fireAll();
    await stopped;
    await Promise.allSettled([answer]);
  });

  it('LocalServer.start() names the key when the port is taken', async () => {
    const port = Number(new URL(server.url).port);
    const second = new LocalServer(
      { routes: [], clock, metrics },
      { listen: { host: '127.0.0.1', port }, connectionsMax: 1 },
    );
    await expect(second.start()).rejects.toThrow(
      /cannot listen on http:\/\/127.0.0.1:\d+ \(local.listen\): another process/,
    );
    await second.stop();
  });
});
