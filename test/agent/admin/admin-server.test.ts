import { request, type IncomingMessage } from 'node:http';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { DeviceError } from '../../../src/device/errors.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { DIGEST, Failure, MountTwin, StatusTwin } from '../../kit/twins.ts';
import { adminServer, BEARER } from '../kit/admin.ts';

let status: StatusTwin;
let mounts: MountTwin;
let clock: ManualClock;
let server: AdminServer;

beforeEach(async () => {
  status = new StatusTwin();
  mounts = new MountTwin();
  clock = new ManualClock();
  ({ server } = adminServer(tempFolder(), { twin: status, mounts, clock }));
  await server.start();
});
afterEach(() => server.stop());

async function ask(path: string, init: { method?: string; body?: unknown; base?: string } = {}) {
  const response = await fetch((init.base ?? server.url) + path, {
    method: init.method ?? 'GET',
    headers: { ...BEARER, ...(init.body !== undefined && JSON_TYPE) },
    ...(init.body !== undefined && {
      body: typeof init.body === 'string' ? init.body : JSON.stringify(init.body),
    }),
  });
  return { status: response.status, json: (await response.json()) as Record<string, unknown> };
}

const JSON_TYPE = { 'content-type': 'application/json' };
const IMAGE = 'docker://r.example/app:1';

describe('AdminServer probes', () => {
  it('/livez is 200 from the start; /readyz gives the reason until ready', async () => {
    expect(await ask('/livez')).toEqual({ status: 200, json: { live: true } });
    expect(await ask('/readyz')).toEqual({
      status: 503,
      json: { error: 'no root answered yet', code: 'not-ready' },
    });
    status.reason = undefined;
    expect(await ask('/readyz')).toEqual({ status: 200, json: { ready: true } });
  });

  it('answers HEAD as GET, without the body', async () => {
    const response = await fetch(`${server.url}/livez`, { method: 'HEAD' });
    expect(response.status).toBe(200);
    expect(await response.text()).toBe('');
  });

  it('answers unknown paths with JSON', async () => {
    expect(await ask('/nothing')).toMatchObject({ status: 404, json: { code: 'not-found' } });
    expect(await ask('/livez', { method: 'POST' })).toMatchObject({ status: 404 });
  });
});

describe('AdminServer facts', () => {
  it('/api/v1/status gives the status', async () => {
    expect(await ask('/api/v1/status')).toEqual({
      status: 200,
      json: JSON.parse(JSON.stringify(await status.status())),
    });
  });

  it('/api/v1/tree gives all trees, those of a blob, or a clear refusal', async () => {
    expect((await ask('/api/v1/tree')).json['trees']).toHaveLength(1);
    expect((await ask(`/api/v1/tree?digest=${DIGEST}`)).json['trees']).toHaveLength(1);
    const other = `sha256:${'00'.repeat(32)}`;
    expect((await ask(`/api/v1/tree?digest=${other}`)).json['trees']).toEqual([]);
    for (const query of ['digest=x', 'digest=', `digest=${DIGEST}&digest=${DIGEST}`]) {
      expect(await ask(`/api/v1/tree?${query}`)).toMatchObject({
        status: 400,
        json: { code: 'bad-request' },
      });
    }
  });
});

describe('AdminServer mounts', () => {
  const path = '/api/v1/mounts';

  it('mounts, lists and unmounts', async () => {
    const posted = await ask(path, {
      method: 'POST',
      body: { image: IMAGE, dir: '/mnt/../mnt/a//' },
    });
    expect(posted).toMatchObject({
      status: 200,
      json: { image: IMAGE, dir: '/mnt/a', device: '/dev/loop3' },
    });
    expect((await ask(path)).json).toEqual({ mounts: [posted.json] });
    const deleted = await ask(path, { method: 'DELETE', body: { dir: '/mnt/a' } });
    expect(deleted).toEqual({ status: 200, json: { dir: '/mnt/a' } });
    expect((await ask(path)).json).toEqual({ mounts: [] });
  });

  it.each<[string, unknown]>([
    ['no body', undefined],
    ['broken JSON', '{'],
    ['a list', []],
    ['null', 'null'],
    ['no image', { dir: '/a' }],
    ['another scheme', { image: 'oci:a:b', dir: '/a' }],
    ['an image with a space', { image: 'docker://a/b c', dir: '/a' }],
    ['a relative directory', { image: IMAGE, dir: 'a' }],
    ['a directory with NUL', { image: IMAGE, dir: '/a\0b' }],
    ['a number', { image: IMAGE, dir: 5 }],
    ['an inherited field', { image: IMAGE, __proto__: { dir: '/a' } }],
  ])('refuses %s', async (_, body) => {
    const answer = await ask(path, { method: 'POST', body });
    expect(answer).toMatchObject({ status: 400, json: { code: 'bad-request' } });
    expect(mounts.list()).toEqual([]);
  });

  it('refuses a body that is large, or of another type', async () => {
    const large = { image: IMAGE, dir: `/${'a'.repeat(100_000)}` };
    expect((await ask(path, { method: 'POST', body: large })).status).toBe(413);
    const chunked = await fetch(server.url + path, {
      method: 'POST',
      headers: { ...BEARER, ...JSON_TYPE },
      body: new Blob([JSON.stringify(large)]).stream(),
      duplex: 'half',
    } as RequestInit);
    expect(chunked.status).toBe(413);
    await chunked.body?.cancel();
    const text = await fetch(server.url + path, {
      method: 'POST',
      headers: BEARER,
      body: JSON.stringify({ image: IMAGE, dir: '/a' }),
    });
    expect(text.status).toBe(415);
    await text.body?.cancel();
  });

  const failing = (code: string): string => `the twin fails with ${code}`;
  it.each([
    ...(['already-mounted', 'not-permitted'] as const).map(
      (code) => new DeviceError(failing(code), { code, dir: '/a', step: 'mount' }),
    ),
    new OriginError(failing('not-found'), { code: 'not-found' }),
    new Failure('whatever'),
  ])('hands on the reason of a failure: $code', async (failure) => {
    const { code } = failure;
    const expected =
      { 'already-mounted': 409, 'not-permitted': 403, 'not-found': 404 }[code] ?? 500;
    mounts.onMount = async () => {
      throw failure;
    };
    const answer = await ask(path, { method: 'POST', body: { image: IMAGE, dir: '/a' } });
    expect(answer).toEqual({
      status: expected,
      json: { error: failing(code), code },
    });
  });

  it('hides the text of unexpected errors', async () => {
    mounts.onMount = async () => {
      throw new Error('secret');
    };
    const answer = await ask(path, { method: 'POST', body: { image: IMAGE, dir: '/a' } });
    expect(answer.status).toBe(500);
    expect(JSON.stringify(answer.json)).not.toContain('secret');
  });

  it('aborts a mount at its deadline', async () => {
    mounts.onMount = (signal) => {
      const over = new Promise<void>((_, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason as Error)),
      );
      expect(clock.delays).toEqual([120_000]);
      clock.fireAll();
      return over;
    };
    const answer = await ask(path, { method: 'POST', body: { image: IMAGE, dir: '/a' } });
    expect(answer).toMatchObject({ status: 504, json: { code: 'timeout' } });
  });

  it('aborts a mount when its client goes away', async () => {
    const mounting = Promise.withResolvers<void>();
    const gone = Promise.withResolvers<void>();
    let aborted: AbortSignal | undefined;
    mounts.onMount = async (signal) => {
      signal.addEventListener('abort', () => gone.resolve());
      aborted = signal;
      mounting.resolve();
      await gone.promise;
      throw signal.reason as Error;
    };
    const { hostname, port } = new URL(server.url);
    const sent = request({
      hostname,
      port,
      path,
      method: 'POST',
      headers: { ...BEARER, ...JSON_TYPE },
    });
    sent.on('error', () => {});
    sent.end(JSON.stringify({ image: IMAGE, dir: '/a' }));
    await mounting.promise;
    expect(aborted?.aborted).toBe(false);
    sent.destroy();
    await gone.promise;
    expect(aborted?.aborted).toBe(true);
  });

  it('answers mounts with an error where devices are off', async () => {
    const { server: bare } = adminServer(tempFolder());
    await bare.start();
    expect(await ask(path, { base: bare.url })).toMatchObject({
      status: 501,
      json: { code: 'no-devices' },
    });
    await bare.stop();
  });

  it('refuses what a web page asks for by a name that leads here (DNS rebinding)', async () => {
    const { hostname, port } = new URL(server.url);
    for (const host of ['evil.example', 'localhost:19146', '127.0.0.1']) {
      const headers = { ...JSON_TYPE, host };
      const sent = request({ hostname, port, path, method: 'POST', headers });
      sent.end(JSON.stringify({ image: IMAGE, dir: '/a' }));
      const [response] = (await once(sent, 'response')) as [IncomingMessage];
      response.resume();
      expect(response.statusCode, host).toBe(401);
      expect(response.headers['www-authenticate']).toBe('Bearer');
    }
    expect(mounts.list()).toEqual([]);
  });
});

describe('AdminServer life', () => {
  it('start() names the key when the port is taken', async () => {
    const port = Number(new URL(server.url).port);
    const { server: second } = adminServer(tempFolder(), {}, port);
    await expect(second.start()).rejects.toThrow(
      /cannot listen on .*\(admin.listen\): another process/,
    );
    await second.stop();
  });

  it('stop() may come before start()', async () => {
    const { server: unstarted } = adminServer(tempFolder());
    await expect(unstarted.stop()).resolves.toBeUndefined();
  });
});
