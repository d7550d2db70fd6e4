import { once } from 'node:events';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { request, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { PreheatError } from '../../../src/preheat/messages.ts';
import { silentLogger, type Logger } from '../../../src/runtime/logger.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { DIGEST } from '../../kit/twins.ts';
import { adminServer, BEARER, TOKEN } from '../kit/admin.ts';
import {
  DONE,
  FAILED,
  PREHEAT_ID as ID,
  PREHEAT_NUMBER,
  PreheatTwin,
} from '../kit/preheat-twin.ts';

const IMAGE = 'docker://r.example/team/app:1';

let twin: PreheatTwin;
let tokenFile: string;
let server: AdminServer;
const logged: unknown[] = [];
const note = (fields: object, text: string): void => void logged.push([fields, text]);
const logger: Logger = { ...silentLogger, info: note, warn: note, error: note, debug: note };

beforeEach(async () => {
  twin = new PreheatTwin();
  logged.length = 0;
  const folder = tempFolder();
  tokenFile = join(folder, 'token');
  ({ server } = adminServer(folder, { preheats: twin, logger }));
  await server.start();
});
afterEach(() => server.stop());

interface Ask {
  readonly method?: string;
  readonly body?: unknown;
  readonly type?: string;
  /** The right one when not given; none when empty. */
  readonly authorization?: string;
}

async function ask(path: string, init: Ask = {}): Promise<{ status: number; json: unknown }> {
  const { hostname, port } = new URL(server.url);
  const { method = init.body === undefined ? 'GET' : 'POST', body } = init;
  const { type = 'application/json', authorization = BEARER.authorization } = init;
  const headers = {
    ...(body !== undefined && { 'content-type': type }),
    ...(authorization !== '' && { authorization }),
  };
  const sent = request({ hostname, port, path, method, headers });
  sent.end(body === undefined ? undefined : JSON.stringify(body));
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  let text = '';
  for await (const piece of response.setEncoding('utf8')) text += String(piece);
  const isJson = /json/.test(response.headers['content-type'] ?? '');
  return { status: response.statusCode ?? 0, json: isJson ? JSON.parse(text) : text };
}

describe('POST /api/v1/preheat', () => {
  const path = '/api/v1/preheat';

  it("starts a preheat of an image, or of its trace's blocks, on the chosen hosts", async () => {
    expect(await ask(path, { body: { image: IMAGE } })).toMatchObject({
      status: 202,
      json: { id: ID, state: 'running' },
    });
    const all = { image: IMAGE, part: 'trace', pin: true, zone: 'z1', count: 3 };
    await ask(path, { body: all });
    expect(twin.specs).toEqual([
      { reference: 'r.example/team/app:1', part: 'image', pin: false },
      { reference: 'r.example/team/app:1', part: 'trace', pin: true, zone: 'z1', count: 3 },
    ]);
  });

  it('shows and cancels it', async () => {
    expect(await ask(`${path}/${ID}`)).toMatchObject({ status: 200, json: { id: ID } });
    expect(await ask(`${path}/${ID}`, { method: 'DELETE' })).toMatchObject({
      status: 200,
      json: { state: 'cancelled' },
    });
    expect(twin.cancelled).toEqual([ID]);
    const unknown = `${path}/${'0'.repeat(32)}`;
    expect(await ask(unknown)).toMatchObject({ status: 404, json: { code: 'not-found' } });
    // The number is for clients that take nothing else.
    expect(await ask(`${path}/${PREHEAT_NUMBER}`)).toMatchObject({ status: 400 });
    expect(await ask(`${path}/nonsense`)).toMatchObject({ status: 400 });
  });

  it('names the wrong field and its rule, never its value', async () => {
    for (const [change, field] of [
      [{ image: 'oci:dir:tag' }, 'image must be docker://'],
      [{ image: undefined }, 'image must be docker://'],
      [{ count: 0 }, 'count must be a count of hosts'],
      [{ part: 'most' }, 'part must be "image" or "trace"'],
      [{ pin: 'yes' }, 'pin must be true or false'],
      [{ secret: 'x' }, 'the body must be without the unknown key "secret"'],
    ] as const) {
      const { status, json } = await ask(path, { body: { image: IMAGE, ...change } });
      expect(status).toBe(400);
      expect((json as { error: string }).error).toContain(field);
    }
    expect(twin.specs).toEqual([]);
  });

  it('reports why a preheat did not start', async () => {
    for (const [code, status] of [
      ['full', 503],
      ['unreachable', 503],
      ['refused', 403],
    ] as const) {
      twin.fails = new PreheatError(`it is ${code}`, { code });
      expect(await ask(path, { body: { image: IMAGE } })).toMatchObject({ status, json: { code } });
    }
  });

  it('neither starts, shows nor cancels a preheat for somebody without the token', async () => {
    const bad = ['', 'Bearer', `Basic ${TOKEN}`, `Bearer ${TOKEN}x`, 'Bearer x'];
    for (const authorization of bad) {
      const answers = [
        await ask(path, { authorization, body: { image: IMAGE } }),
        await ask(`${path}/${ID}`, { authorization }),
        await ask(`${path}/${ID}`, { authorization, method: 'DELETE' }),
      ];
      for (const answer of answers) {
        expect(answer).toMatchObject({ status: 401, json: { code: 'unauthorized' } });
      }
    }
    expect(twin).toMatchObject({ specs: [], cancelled: [], looks: 0 });
  });

  it('takes a new token at once, and none from a file that cannot be used', async () => {
    const asked = async (token: string): Promise<number> =>
      (await ask(path, { authorization: `Bearer ${token}`, body: { image: IMAGE } })).status;
    const fresh = 'f'.repeat(40);
    writeFileSync(tokenFile, fresh);
    expect(await asked(TOKEN)).toBe(401);
    expect(await asked(fresh)).toBe(202);
    chmodSync(tokenFile, 0o640);
    expect(await asked(fresh)).toBe(401);
    expect(JSON.stringify(logged)).toContain('others can reach it');
    chmodSync(tokenFile, 0o600);
    expect(await asked(fresh)).toBe(202);
    writeFileSync(tokenFile, 'short');
    expect(await asked('short')).toBe(401);
    rmSync(tokenFile);
    expect(await asked('short')).toBe(401);
    expect(await asked('')).toBe(401);
    expect(JSON.stringify(logged)).toContain('the admin token cannot be used');
    // Each state of the file is told once, however often somebody asks.
    expect(logged).toHaveLength(3);
    expect(JSON.stringify(logged)).not.toContain('short');
  });
});

describe('requests of Harbor', () => {
  const url = 'https://harbor.example/v2/library/app/manifests/1.4';
  const headers = { Authorization: 'Bearer the-secret-of-a-robot' };
  const authorization = '';

  it('Dragonfly 1: health, start, and every state', async () => {
    expect((await ask('/_ping', { authorization })).status).toBe(200);
    const body = { type: 'image', url, headers, image: 'library/app', tag: '1.4', digest: DIGEST };
    expect(await ask('/preheats', { body, authorization })).toMatchObject({ status: 401 });
    expect(await ask('/preheats', { body })).toEqual({
      status: 200,
      json: { ID },
    });
    expect(twin.specs).toEqual([
      { reference: `harbor.example/library/app@${DIGEST}`, part: 'image', pin: false },
    ]);
    for (const [changes, status] of [
      [{ state: 'waiting' }, 'WAITING'],
      [{}, 'RUNNING'],
      [DONE, 'SUCCESS'],
      [FAILED, 'FAILED'],
      [{ state: 'cancelled' }, 'FAILED'],
    ] as const) {
      twin.changes = changes;
      expect((await ask(`/preheats/${ID}`, { authorization })).status).toBe(401);
      const { json } = await ask(`/preheats/${ID}`);
      expect(json).toMatchObject({ ID, status, startTime: '1970-01-01T00:00:01.000Z' });
    }
    twin.changes = FAILED;
    expect((await ask(`/preheats/${ID}`)).json).toMatchObject({
      finishTime: '1970-01-01T00:00:03.500Z',
      errorMsg: expect.stringContaining('b: the host no longer answers') as string,
    });
  });

  it('Dragonfly 2: health, start with a scope, and every state', async () => {
    expect((await ask('/healthy', { authorization })).status).toBe(200);
    const args = { type: 'image', url, headers, scope: 'single_seed_peer', concurrent_count: 0 };
    const body = { type: 'preheat', args, scheduler_cluster_ids: null };
    expect(await ask('/oapi/v1/jobs', { body, authorization })).toMatchObject({ status: 401 });
    const answer = await ask('/oapi/v1/jobs', { body });
    expect(answer).toMatchObject({ status: 200, json: { id: PREHEAT_NUMBER, state: 'PENDING' } });
    await ask('/oapi/v1/jobs', { body: { ...body, args: { ...args, scope: 'all_peers' } } });
    expect(twin.specs).toEqual([
      { reference: 'harbor.example/library/app:1.4', part: 'image', pin: false, count: 1 },
      { reference: 'harbor.example/library/app:1.4', part: 'image', pin: false },
    ]);
    for (const [changes, state, errors] of [
      [{}, 'PENDING', 0],
      [DONE, 'SUCCESS', 0],
      [FAILED, 'FAILURE', 1],
    ] as const) {
      twin.changes = changes;
      const status = `/oapi/v1/jobs/${PREHEAT_NUMBER}`;
      expect((await ask(status, { authorization })).status).toBe(401);
      const { json } = await ask(status);
      expect(json).toMatchObject({ id: PREHEAT_NUMBER, state });
      const { result } = json as { result: { job_states: unknown[] } };
      expect(result.job_states).toHaveLength(errors);
    }
  });

  it('Kraken: health, and pushes of manifests', async () => {
    expect((await ask('/health', { authorization })).status).toBe(200);
    const target = {
      mediaType: 'application/vnd.docker.distribution.manifest.v2+json',
      digest: DIGEST,
      repository: 'library/app',
      url,
      tag: '1.4',
    };
    const events = [
      { id: 'e1', timestamp: '2024-01-01T00:00:00Z', action: 'push', target },
      { id: 'e2', action: 'pull', target },
      { id: 'e3', action: 'push', target: { ...target, mediaType: 'application/octet-stream' } },
    ];
    expect(await ask('/registry/notifications', { body: { events }, authorization })).toMatchObject(
      {
        status: 401,
      },
    );
    const answer = await ask('/registry/notifications', { body: { events } });
    expect(answer).toEqual({ status: 200, json: { ids: [ID] } });
    expect(twin.specs).toHaveLength(1);
  });

  it('Kraken: reads notifications of registries by their own content types', async () => {
    const target = { mediaType: 'application/vnd.oci.image.index.v1+json', digest: DIGEST, url };
    const push = { action: 'push', target };
    // A deletion has no URL.
    const events = [push, { action: 'delete', target: { digest: DIGEST } }];
    const types = [
      'application/vnd.docker.distribution.events.v1+json',
      'application/vnd.docker.distribution.events.v2+json',
      'application/cloudevents+json; charset=utf-8',
    ];
    for (const type of types) {
      const answer = await ask('/registry/notifications', { body: { events }, type });
      expect(answer, type).toEqual({ status: 200, json: { ids: [ID] } });
    }
    for (const type of ['text/plain', 'application/x-json', 'application/+json', 'text/x+json']) {
      const answer = await ask('/registry/notifications', { body: { events }, type });
      expect(answer, type).toMatchObject({ status: 415 });
    }
  });

  it('gets a 400 for a body not understood; keeps and logs no credentials', async () => {
    for (const change of [
      { type: 'file' },
      { url: 'https://user:password@harbor.example/v2/a/manifests/1' },
      { url: 'https://harbor.example/library/app:1.4' },
    ]) {
      const body = { type: 'image', url, headers, ...change };
      const { status, json } = await ask('/preheats', { body });
      expect(status).toBe(400);
      expect(JSON.stringify(json)).not.toMatch(/secret|password/);
    }
    await ask('/preheats', { body: { type: 'image', url, headers } });
    const seen = JSON.stringify([twin.specs, logged]);
    expect(seen).not.toMatch(/secret|password/);
  });
});
