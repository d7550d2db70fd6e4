import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { BlobSender } from '../../../src/edge/http/blob-sender.ts';
import { LocalServer } from '../../../src/edge/http/local-server.ts';
import { MirrorEndpoint } from '../../../src/edge/mirror/endpoint.ts';
import type { KeptManifest } from '../../../src/edge/mirror/manifest-cache.ts';
import { AccessError } from '../../../src/edge/access/access-error.ts';
import { Way } from '../../../src/edge/access/ways.ts';
import type { BlobAddress } from '../../../src/edge/access/contract.ts';
import { BlobError } from '../../../src/edge/http/blob-error.ts';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import type { BlobReader } from '../../../src/transfer/contracts/blob-reader.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { digestOf } from '../../kit/registry-content.ts';

const MIB = 1024 * 1024;
const NONE = { host: 'none.example', insecure: false };

/**
 * A mirror of one blob and one manifest in memory; what may be behind it can be made to fail or to
 * hang.
 */
async function start(
  registries = [{ host: 'r.example:5000', insecure: true }],
  defaultRegistry?: string,
) {
  const bytes = sampleBytes(6 * MIB, 1);
  const manifest = {
    digest: digestOf(new Uint8Array(2)),
    mediaType: 'a/b',
    bytes: new Uint8Array(2),
  };
  const world = {
    bytes,
    digest: digestOf(bytes),
    clock: new ManualClock(),
    onRead: async (_offset: number): Promise<void> => {},
    challenges: [] as string[],
    blockImage: undefined as KeptManifest | undefined,
    lookedFor: [] as Digest[],
    manifest,
    onCheck: async (): Promise<void> => {},
    onManifest: async (): Promise<void> => {},
    asked: [] as { origin: object; reference: string }[],
    ways: [] as Way[],
    askedForClient: [] as { url: string; authorization: string | undefined }[],
    checked: [] as { address: BlobAddress; digest: Digest; authorization: string | undefined }[],
  };
  const metrics = new PromMetrics({ processMetrics: false });
  const reader: BlobReader = {
    read: async (_, offset, length) => {
      await world.onRead(offset);
      return world.bytes.slice(offset, offset + length);
    },
    readCached: () => undefined,
  };
  const endpoint = new MirrorEndpoint(
    {
      clock: world.clock,
      logger: silentLogger,
      metrics,
      manifests: {
        get: (origin, reference) => {
          world.asked.push({ origin, reference });
          return world.onManifest().then(() => manifest);
        },
      },
      blockImages: {
        find: async (...[, original]) => {
          world.lookedFor.push(original.digest);
          return world.blockImage;
        },
      },
      ping: { challenges: () => Promise.resolve(world.challenges) },
      gate: {
        open: async ({ address, digest, authorization }) => {
          world.checked.push({ address, digest, authorization });
          await world.onCheck();
          const way = new Way({ url: address.url, authorization, nowMs: 0 });
          world.ways.push(way);
          return { blob: { digest, sizeBytes: world.bytes.length }, isShared: true, way };
        },
      },
      ownAnswer: {
        check: (address, authorization) => {
          world.askedForClient.push({ url: address.url, authorization });
          return world.onCheck();
        },
      },
      sender: new BlobSender({ reader, hash: new NodeHash(), clock: world.clock, metrics }),
    },
    { registries, defaultRegistry },
  );
  const server = new LocalServer(
    { routes: [endpoint], clock: world.clock, metrics },
    { listen: { host: '127.0.0.1', port: 0 }, connectionsMax: 100 },
  );
  await server.start();
  onTestFinished(() => server.stop());
  return { world, metrics, url: server.url };
}

async function ask(url: string, headers: Record<string, string> = {}) {
  const [response] = (await once(get(url, { agent: false, headers }), 'response')) as [
    IncomingMessage,
  ];
  const pieces: Buffer[] = [];
  let isWhole = true;
  try {
    for await (const piece of response) pieces.push(piece as Buffer);
  } catch {
    isWhole = false;
  }
  const body = Buffer.concat(pieces);
  return { status: response.statusCode, headers: response.headers, body, isWhole };
}

describe('MirrorEndpoint and block images', () => {
  const OPTED = { 'xylem-accept-block-images': 'yes' };
  const bytes = Buffer.from('{"block":1}');
  const image = { digest: digestOf(bytes), mediaType: 'c/d', bytes };
  const path = '/v2/team/app/manifests';

  it('gives one by tag to a client that takes them, and the original to all others', async () => {
    const { world, url } = await start();
    world.blockImage = image;
    for (const headers of [{}, { 'xylem-accept-block-images': 'no' }]) {
      const plain = await ask(`${url}${path}/1`, headers);
      expect(plain.headers).toMatchObject({
        'docker-content-digest': world.manifest.digest,
        vary: 'Xylem-Accept-Block-Images',
      });
    }
    expect(world.lookedFor).toEqual([]);
    const opted = await ask(`${url}${path}/1`, OPTED);
    expect(opted).toMatchObject({ status: 200, body: bytes });
    expect(opted.headers).toMatchObject({
      'docker-content-digest': image.digest,
      'content-type': 'c/d',
      'content-length': String(bytes.length),
      etag: `"${image.digest}"`,
      vary: 'Xylem-Accept-Block-Images',
    });
    expect(world.checked.map(({ digest }) => digest).slice(-2)).toEqual([
      world.manifest.digest,
      image.digest,
    ]);
  });

  it('never answers a digest with another image', async () => {
    const { world, url } = await start();
    world.blockImage = image;
    const answer = await ask(`${url}${path}/${world.manifest.digest}`, OPTED);
    expect(answer.headers['docker-content-digest']).toBe(world.manifest.digest);
    expect(answer.headers.vary).toBeUndefined();
    expect(world.lookedFor).toEqual([]);
  });

  it('gives the original when there is none, it is not accepted, or may not be read', async () => {
    const { world, url } = await start();
    const digest = async (headers: object) =>
      (await ask(`${url}${path}/1`, { ...OPTED, ...headers })).headers['docker-content-digest'];
    expect(await digest({})).toBe(world.manifest.digest);
    world.blockImage = image;
    expect(await digest({ accept: 'a/b' })).toBe(world.manifest.digest);
    world.onCheck = () => {
      const isBlock = world.checked.at(-1)?.digest === image.digest;
      const denied = new AccessError('no', { code: 'denied', challenges: [] });
      return isBlock ? Promise.reject(denied) : Promise.resolve();
    };
    expect(await digest({})).toBe(world.manifest.digest);
  });
});

describe('MirrorEndpoint', () => {
  it('takes the registry of ?ns=, else the only configured one, else refuses', async () => {
    const one = await start();
    const path = '/v2/team/app/manifests/1';
    await ask(`${one.url}${path}?ns=docker.io`);
    await ask(`${one.url}${path}?ns=127.0.0.1%3A5001`);
    await ask(`${one.url}${path}`);
    expect(one.world.asked.map(({ origin }) => origin)).toMatchObject([
      { registry: 'docker.io' },
      { registry: '127.0.0.1:5001' },
      { registry: 'r.example:5000' },
    ]);
    expect(one.world.checked.map(({ address }) => address.url.replace(/sha256.*/, ''))).toEqual([
      'https://registry-1.docker.io/v2/team/app/manifests/',
      'https://127.0.0.1:5001/v2/team/app/manifests/',
      'http://r.example:5000/v2/team/app/manifests/',
    ]);
    const bad = await ask(`${one.url}${path}?ns=a/b`);
    expect([bad.status, bad.body.toString()]).toEqual([
      400,
      expect.stringContaining('NAME_INVALID'),
    ]);
    for (const registries of [[], [NONE, { ...NONE, host: 'other.example' }]]) {
      const many = await start(registries);
      const answer = await ask(`${many.url}${path}`);
      expect(answer.status).toBe(404);
      expect(answer.body.toString()).toContain('Add ?ns=HOST');
      const docker = await start(registries, 'docker.io');
      expect((await ask(`${docker.url}${path}`)).status).toBe(200);
      expect(docker.world.asked).toMatchObject([{ origin: { registry: 'docker.io' } }]);
    }
  });

  it.each([
    [{ code: 'unauthorized', challenges: ['Basic a', 'B'] }, 401],
    [{ code: 'denied', challenges: [] }, 403],
    [{ code: 'not-found' }, 404],
    [{ code: 'unchecked' }, 503],
  ] as const)('gives nothing to whom the gate refuses as %o', async (detail, status) => {
    const { world, url } = await start();
    world.onCheck = () => Promise.reject(new AccessError('no', detail));
    for (const path of ['manifests/1', `blobs/${world.digest}`]) {
      const answer = await ask(`${url}/v2/team/app/${path}`, { authorization: 'Basic x' });
      expect(answer.status, path).toBe(status);
      expect(answer.headers['www-authenticate']).toBe(status === 401 ? 'Basic a, B' : undefined);
    }
    expect(world.checked.map(({ authorization }) => authorization)).toEqual(['Basic x', 'Basic x']);
  });

  it('withholds the last block of a whole blob until its digest is checked', async () => {
    const { world, url, metrics } = await start();
    const path = `${url}/v2/team/app/blobs/${world.digest}`;
    const good = await ask(path);
    expect([good.status, good.isWhole, good.body.equals(world.bytes)]).toEqual([200, true, true]);
    world.bytes = world.bytes.slice();
    world.bytes[17] = (world.bytes[17] ?? 0) ^ 1;
    const bad = await ask(path, { range: 'bytes=0-' });
    expect([bad.status, bad.isWhole]).toEqual([206, false]);
    expect(bad.body.length).toBe(world.bytes.length - 256 * 1024);
    // Its client would ask for the rest: there is none to be had here for a while.
    const rest = { range: `bytes=${bad.body.length}-` };
    expect((await ask(path, rest)).status).toBe(502);
    world.clock.advance(60_000);
    expect((await ask(path, rest)).status).toBe(206);
    expect(await metrics.text()).toContain(
      'xylem_mirror_requests_total{kind="blob",status="502"} 1',
    );
  });

  it('answers 503 before the head, and cuts after it, when nothing comes in time', async () => {
    const { world, url } = await start();
    const path = `${url}/v2/team/app/blobs/${world.digest}`;
    const reached = Promise.withResolvers<void>();
    world.onRead = () => {
      reached.resolve();
      return new Promise(() => {});
    };
    const never = ask(path);
    await reached.promise;
    world.clock.advance(30_000);
    expect((await never).status).toBe(503);
    // A read gives up by itself: here as soon as it is asked for.
    world.onRead = (offset) =>
      offset < 5 * MIB ? Promise.resolve() : Promise.reject(new Error('deadline'));
    const cut = await ask(path);
    expect([cut.status, cut.isWhole]).toEqual([200, false]);
    expect(cut.body.equals(world.bytes.subarray(0, cut.body.length))).toBe(true);
    expect(cut.body.length).toBeGreaterThan(4 * MIB);
  });

  it('tells its client at once when the token ends while the blob is read', async () => {
    const { world, url } = await start();
    const closed = new AccessError('over', { code: 'unauthorized', challenges: ['Bearer b'] });
    world.onRead = () => {
      for (const way of world.ways) way.close(closed);
      return new Promise(() => {});
    };
    const answer = await ask(`${url}/v2/team/app/blobs/${world.digest}`, { authorization: 'x' });
    expect([answer.status, answer.headers['www-authenticate']]).toEqual([401, 'Bearer b']);
    expect(world.ways.map(({ isInUse }) => isInUse)).toEqual([false]);
  });

  it('stops reading when its client goes', async () => {
    const { world, url } = await start();
    const reached = Promise.withResolvers<void>();
    let readCount = 0;
    world.onRead = async () => {
      if (++readCount === 24) reached.resolve();
      await new Promise(() => {});
    };
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    socket.write(`GET /v2/a/blobs/${world.digest} HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    await reached.promise;
    socket.destroy();
    await once(socket, 'close');
    expect(readCount).toBe(24);
  });

  it('MirrorEndpoint passes the challenge of /v2/ on to clients without credentials', async () => {
    const { url, world } = await start();
    expect((await ask(`${url}/v2/`)).status).toBe(200);
    world.challenges = ['Basic realm="r"'];
    const challenged = await ask(`${url}/v2/`);
    expect([challenged.status, challenged.headers['www-authenticate']]).toEqual([
      401,
      'Basic realm="r"',
    ]);
    expect((await ask(`${url}/v2/`, { authorization: 'Basic x' })).status).toBe(200);
  });

  it('tells tags of a private repository from none to nobody who may not read it', async () => {
    const { world, url } = await start();
    world.onCheck = () =>
      Promise.reject(new AccessError('no', { code: 'unauthorized', challenges: ['Basic a'] }));
    const there = await ask(`${url}/v2/team/app/manifests/1`);
    world.onManifest = () => Promise.reject(new BlobError('no such tag', { code: 'not-found' }));
    const missing = await ask(`${url}/v2/team/app/manifests/2`, { authorization: 'Basic x' });
    const seen = ({ status, headers, body }: typeof there) => {
      const { date: _, ...others } = headers;
      return [status, others, body.toString()];
    };
    expect(seen(missing)).toEqual(seen(there));
    expect(missing.status).toBe(401);
    expect(world.askedForClient).toEqual([
      { url: 'http://r.example:5000/v2/team/app/manifests/2', authorization: 'Basic x' },
    ]);
    // Who may read the repository learns that there is none.
    world.onCheck = async () => {};
    expect((await ask(`${url}/v2/team/app/manifests/2`)).status).toBe(404);
  });

  it('asks for a manifest by digest only when its client may read it', async () => {
    const { world, url } = await start();
    world.onCheck = () => Promise.reject(new AccessError('no', { code: 'not-found' }));
    expect((await ask(`${url}/v2/team/app/manifests/${world.digest}`)).status).toBe(404);
    expect(world.asked).toEqual([]);
  });

  it('keeps the conditions of RFC 9110 for blobs', async () => {
    const { world, url } = await start();
    const path = `${url}/v2/team/app/blobs/${world.digest}`;
    const etag = `"${world.digest}"`;
    expect((await ask(path, { 'if-none-match': etag })).status).toBe(304);
    expect((await ask(path, { 'if-match': '"x"' })).status).toBe(412);
    const whole = await ask(path, { range: 'bytes=0-9', 'if-range': '"x"' });
    expect([whole.status, whole.body.length]).toEqual([200, world.bytes.length]);
    expect((await ask(path, { range: 'bytes=0-9,20-29' })).status).toBe(200);
    expect((await ask(path, { range: 'bytes=0-9' })).headers).toMatchObject({
      etag,
      'content-range': `bytes 0-9/${world.bytes.length}`,
      'docker-content-digest': world.digest,
      'docker-distribution-api-version': 'registry/2.0',
    });
  });

  it('says nothing of the inside of errors that are mistakes of the agent', async () => {
    const { world, url } = await start();
    world.onManifest = () => Promise.reject(new Error('secret'));
    const answer = await ask(`${url}/v2/team/app/manifests/1`);
    expect(answer.status).toBe(500);
    expect(answer.body.toString()).not.toContain('secret');
  });
});
