import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { request, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { AdminToken } from '../../../src/agent/admin/admin-token.ts';
import { PreheatError } from '../../../src/preheat/messages.ts';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import { silentLogger, type Logger } from '../../../src/runtime/logger.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { DIGEST, StatusTwin } from '../../kit/twins.ts';
import { DONE, FAILED, PREHEAT_ID as ID, PreheatTwin } from '../kit/preheat-twin.ts';

const TOKEN = '0123456789abcdef0123456789abcdef';
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
  tokenFile = join(tempFolder(), 'token');
  writeFileSync(tokenFile, `${TOKEN}\n`);
  server = new AdminServer(
    {
      status: new StatusTwin(),
      metrics: new PromMetrics({ processMetrics: false }),
      clock: new ManualClock(),
      logger,
      preheats: twin,
      token: new AdminToken({ logger }, { file: tokenFile }),
    },
    { listen: { host: '127.0.0.1', port: 0 } },
  );
  await server.start();
});
afterEach(() => server.stop());

interface Ask {
  readonly method?: string;
  readonly body?: unknown;
  /** Sends the request under this host name, as from another host. */
  readonly host?: string;
  readonly authorization?: string;
}

async function ask(path: string, init: Ask = {}): Promise<{ status: number; json: unknown }> {
  const { hostname, port } = new URL(server.url);
  const { method = init.body === undefined ? 'GET' : 'POST', body, host, authorization } = init;
  const headers = {
    ...(body !== undefined && { 'content-type': 'application/json' }),
    ...(host !== undefined && { host }),
    ...(authorization !== undefined && { authorization }),
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
    expect(await ask(`${path}/5`)).toMatchObject({ status: 404, json: { code: 'not-found' } });
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

  it('accepts requests from other hosts only with the token, also to cancel', async () => {
    const host = 'agent.example:19146';
    const given = (authorization: string): Ask => ({ host, authorization, body: { image: IMAGE } });
    for (const authorization of ['', 'Bearer', `Basic ${TOKEN}`, `Bearer ${TOKEN}x`, 'Bearer x']) {
      expect(await ask(path, given(authorization))).toMatchObject({
        status: 403,
        json: { code: 'loopback-only' },
      });
    }
    expect(await ask(`${path}/${ID}`, { method: 'DELETE', host })).toMatchObject({ status: 403 });
    expect(twin.specs).toEqual([]);
    const authorization = `Bearer ${TOKEN}`;
    expect((await ask(path, given(authorization))).status).toBe(202);
    expect((await ask(`${path}/${ID}`, { method: 'DELETE', host, authorization })).status).toBe(
      200,
    );
    // The token is for preheats alone.
    const mount = { body: { image: IMAGE, dir: '/a' }, host, authorization };
    expect(await ask('/api/v1/mounts', mount)).toMatchObject({ status: 403 });
  });

  it('accepts a new token at once, and none from an unusable file', async () => {
    const host = 'agent.example:19146';
    const asked = async (token: string): Promise<number> =>
      (await ask(path, { host, authorization: `Bearer ${token}`, body: { image: IMAGE } })).status;
    writeFileSync(tokenFile, 'f'.repeat(40));
    expect(await asked(TOKEN)).toBe(403);
    expect(await asked('f'.repeat(40))).toBe(202);
    writeFileSync(tokenFile, 'short');
    expect(await asked('short')).toBe(403);
    expect(JSON.stringify(logged)).toContain('the admin token cannot be used');
    expect(JSON.stringify(logged)).not.toContain('short');
  });
});

describe('requests of Harbor', () => {
  const url = 'https://harbor.example/v2/library/app/manifests/1.4';
  const headers = { Authorization: 'Bearer the-secret-of-a-robot' };
  const authorization = `Bearer ${TOKEN}`;
  const host = 'agent.example:19146';

  it('Dragonfly 1: health, start, and every state', async () => {
    expect((await ask('/_ping', { host })).status).toBe(200);
    const body = { type: 'image', url, headers, image: 'library/app', tag: '1.4', digest: DIGEST };
    expect(await ask('/preheats', { body, host })).toMatchObject({ status: 403 });
    expect(await ask('/preheats', { body, host, authorization })).toEqual({
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
      const { json } = await ask(`/preheats/${ID}`, { host });
      expect(json).toMatchObject({ ID, status, startTime: '1970-01-01T00:00:01.000Z' });
    }
    twin.changes = FAILED;
    expect((await ask(`/preheats/${ID}`)).json).toMatchObject({
      finishTime: '1970-01-01T00:00:03.500Z',
      errorMsg: expect.stringContaining('b: the host no longer answers') as string,
    });
  });

  it('Dragonfly 2: health, start with a scope, and every state', async () => {
    expect((await ask('/healthy', { host })).status).toBe(200);
    const args = { type: 'image', url, headers, scope: 'single_seed_peer', concurrent_count: 0 };
    const body = { type: 'preheat', args, scheduler_cluster_ids: null };
    expect(await ask('/oapi/v1/jobs', { body, host })).toMatchObject({ status: 403 });
    const answer = await ask('/oapi/v1/jobs', { body, host, authorization });
    expect(answer).toMatchObject({ status: 200, json: { id: Number(ID), state: 'PENDING' } });
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
      const { json } = await ask(`/oapi/v1/jobs/${ID}`, { host });
      expect(json).toMatchObject({ id: Number(ID), state });
      const { result } = json as { result: { job_states: unknown[] } };
      expect(result.job_states).toHaveLength(errors);
    }
  });

  it('Kraken: health, and pushes of manifests', async () => {
    expect((await ask('/health', { host })).status).toBe(200);
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
    expect(await ask('/registry/notifications', { body: { events }, host })).toMatchObject({
      status: 403,
    });
    const answer = await ask('/registry/notifications', { body: { events }, host, authorization });
    expect(answer).toEqual({ status: 200, json: { ids: [ID] } });
    expect(twin.specs).toHaveLength(1);
  });

  it('gets a 400 for an unknown body; its credentials are neither kept nor logged', async () => {
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
