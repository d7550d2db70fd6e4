import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { request, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { defined } from '../../src/util/assert.ts';
import { Containerd } from '../kit/containerd.ts';
import { FakeRegistry, isAgent, type Behaviour } from '../kit/fake-registry.ts';
import { RegistryProxy } from '../kit/registry-proxy.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { makeTarImage } from '../kit/tar-image.ts';
import { hostsDirOf } from './kit/mirror-rig.ts';

const registry = new FakeRegistry();
const dir = mkdtempSync(join(tmpdir(), 'xylem-test-'));
let cluster: AgentCluster;

beforeAll(async () => {
  await registry.start();
  const shape = { roots: 1, children: 1, devices: false };
  cluster = new AgentCluster({ dir, ...shape, registry: registry.address });
  await cluster.start();
});
afterAll(async () => {
  await cluster.stop();
  await registry.stop();
  rmSync(dir, { recursive: true });
});

type Role = 'root' | 'child';

function hostOf(role: Role): ClusterHost {
  return defined(role === 'root' ? cluster.roots[0] : cluster.children[0], 'started');
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
  /** Whether the body arrived completely. */
  readonly isWhole: boolean;
}

/** The answer of a host's mirror. */
async function ask(
  role: Role,
  path: string,
  init: { readonly method?: string; readonly headers?: OutgoingHttpHeaders } = {},
): Promise<Answer> {
  const ns = encodeURIComponent(registry.address);
  const sent = request(`${hostOf(role).mirror}/v2/${path}?ns=${ns}`, { agent: false, ...init });
  sent.end();
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  const pieces: Buffer[] = [];
  let isWhole = true;
  try {
    for await (const piece of response) pieces.push(piece as Buffer);
  } catch {
    isWhole = false;
  }
  const { statusCode: status = 0, headers } = response;
  return { status, headers, body: Buffer.concat(pieces), isWhole };
}

function errorOf({ body }: Answer): unknown {
  const { errors } = JSON.parse(body.toString()) as { errors: { code: string }[] };
  return errors[0]?.code;
}

/** Answers agents with a status. */
function status(code: number, headers: OutgoingHttpHeaders = {}): Behaviour {
  return (asked, response) => {
    if (!isAgent(asked)) return false;
    response.writeHead(code, headers).end();
    return true;
  };
}

const refused: Behaviour = (asked, response) => {
  if (!isAgent(asked)) return false;
  response.destroy();
  return true;
};

const BASIC = { 'www-authenticate': 'Basic realm="tests"' };

/** The registry's behaviour towards agents, and the mirror's answer to its client. */
const ROWS = [
  ['breaks the connection', refused, 503, 'UNAVAILABLE'],
  ['answers 401', status(401, BASIC), 401, 'UNAUTHORIZED'],
  ['answers 403', status(403), 403, 'DENIED'],
  ['answers 404', status(404), 404, 'UNKNOWN'],
  ['answers 500', status(500), 503, 'UNAVAILABLE'],
  ['answers 503', status(503), 503, 'UNAVAILABLE'],
  ['answers 429', status(429), 429, 'TOOMANYREQUESTS'],
] as const;

describe.concurrent.each(['root', 'child'] as const)(
  'the mirror of a %s, when the registry',
  (role) => {
    it.each(ROWS)(
      '%s: passes on what sends clients there, before the head',
      async (name, behaviour, ...said) => {
        const repository = `${role}/${name.replaceAll(' ', '-')}`;
        registry.behaviours.set(`/v2/${repository}/`, behaviour);
        registry.addManifest('1', Buffer.from('{}'));
        const { digest: blob } = registry.addBlob(randomBytes(1000));
        for (const path of [`${repository}/manifests/1`, `${repository}/blobs/${blob}`]) {
          const answer = await ask(role, path);
          const [expected, code] = said;
          expect(answer.status, path).toBe(expected);
          const kind = path.includes('blobs') ? 'BLOB' : 'MANIFEST';
          expect(errorOf(answer)).toBe(code === 'UNKNOWN' ? `${kind}_UNKNOWN` : code);
          expect((await ask(role, path, { method: 'HEAD' })).status, path).toBe(expected);
          const challenge = expected === 401 ? BASIC['www-authenticate'] : undefined;
          expect(answer.headers['www-authenticate']).toBe(challenge);
        }
      },
    );

    it('sends a corrupt blob: refuses a small one, cuts a large one short of its end', async () => {
      for (const sizeBytes of [700, 1_000_000, 9_000_000]) {
        const bytes = randomBytes(sizeBytes);
        const { digest: blob } = registry.addBlob(bytes);
        const repository = `${role}/corrupt-${sizeBytes}`;
        // One bit, in the middle of every answer that holds it.
        const wrong = Buffer.from(bytes);
        wrong[sizeBytes >> 1] = (wrong[sizeBytes >> 1] ?? 0) ^ 1;
        registry.behaviours.set(`/v2/${repository}/`, (asked, response) => {
          const range = /^bytes=(\d+)-(\d+)$/.exec(asked.headers.range ?? '');
          if (!isAgent(asked) || range === null) return false;
          const [first, last] = [Number(range[1]), Number(range[2])];
          response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${sizeBytes}` });
          response.end(wrong.subarray(first, last + 1));
          return true;
        });
        const answer = await ask(role, `${repository}/blobs/${blob}`);
        if (sizeBytes < 4 * 1024 * 1024) {
          expect([answer.status, errorOf(answer)]).toEqual([502, 'DIGEST_INVALID']);
        } else {
          expect([answer.status, answer.isWhole]).toEqual([200, false]);
          expect(answer.body.length).toBeLessThan(sizeBytes);
        }
        // Nor does the rest of a blob leave that cannot become right.
        const rest = { headers: { range: `bytes=${answer.body.length}-` } };
        expect((await ask(role, `${repository}/blobs/${blob}`, rest)).status).toBe(502);
      }
    });

    it('stalls within a blob: cuts the answer after its own deadline', async () => {
      const bytes = randomBytes(9_000_000);
      const { digest: blob } = registry.addBlob(bytes);
      const repository = `${role}/stalled`;
      registry.behaviours.set(`/v2/${repository}/`, (asked) => {
        const first = Number(/^bytes=(\d+)-/.exec(asked.headers.range ?? '')?.[1] ?? 0);
        return isAgent(asked) && first >= 5_000_000;
      });
      const answer = await ask(role, `${repository}/blobs/${blob}`);
      expect([answer.status, answer.isWhole]).toEqual([200, false]);
      expect(answer.body.length).toBeGreaterThan(4_000_000);
      expect(answer.body.equals(bytes.subarray(0, answer.body.length))).toBe(true);
    });

    it('is sound: gives manifests of any type byte by byte, by tag and digest', async () => {
      const bytes = Buffer.from(`{ "schemaVersion": 2, "role": "${role}" }\n`);
      const mediaType = 'application/vnd.example.thing+json';
      const digest = registry.addManifest(role, bytes, mediaType);
      for (const name of [role, digest]) {
        const path = `team/app/manifests/${name}`;
        const answer = await ask(role, path, { headers: { accept: `${mediaType}, a/b` } });
        expect(answer.body.equals(bytes)).toBe(true);
        expect(answer.headers).toMatchObject({
          'content-type': mediaType,
          'docker-content-digest': digest,
          'content-length': String(bytes.length),
        });
        const head = await ask(role, path, { method: 'HEAD' });
        expect([head.status, head.headers['docker-content-digest']]).toEqual([200, digest]);
        expect(head.body.length).toBe(0);
        const other = await ask(role, path, { headers: { accept: 'application/json' } });
        expect([other.status, errorOf(other)]).toEqual([404, 'MANIFEST_UNKNOWN']);
      }
    });

    it('is sound: gives blobs whole and in parts, and answers their HEAD', async () => {
      const bytes = randomBytes(5_000_000);
      const path = `team/app/blobs/${registry.addBlob(bytes).digest}`;
      const head = await ask(role, path, { method: 'HEAD' });
      expect(head.headers).toMatchObject({ 'content-length': '5000000', 'accept-ranges': 'bytes' });
      for (const [range, first, last] of [
        ['bytes=4999000-', 4_999_000, 4_999_999],
        ['bytes=262143-262144', 262_143, 262_144],
        ['bytes=0-', 0, 4_999_999],
        [undefined, 0, 4_999_999],
      ] as const) {
        const answer = await ask(role, path, { headers: range === undefined ? {} : { range } });
        expect(answer.status).toBe(range === undefined ? 200 : 206);
        expect(answer.body.equals(bytes.subarray(first, last + 1)), range ?? 'whole').toBe(true);
      }
      const beyond = await ask(role, path, { headers: { range: 'bytes=5000000-' } });
      expect([beyond.status, errorOf(beyond)]).toEqual([416, 'RANGE_INVALID']);
    });

    it('is sound: leaves requests to it that the mirror does not serve', async () => {
      expect((await ask(role, '')).status).toBe(200);
      for (const path of [
        'team/app/tags/list',
        `team/app/referrers/sha256:${'0'.repeat(64)}`,
        `team/app/blobs/sha512:${'0'.repeat(128)}`,
        'team/App/manifests/1',
        'team/app/manifests/.1',
      ]) {
        expect((await ask(role, path)).status, path).toBe(404);
      }
      expect((await ask(role, 'team/app/manifests/1', { method: 'PUT' })).status).toBe(405);
    });
  },
);

describeWith(
  'containerd with the mirror',
  [needs.program('containerd'), needs.program('tar'), needs.root],
  () => {
    it.each(ROWS)(
      'of a child, when the registry %s to agents, pulls from it',
      async (name, how) => {
        const image = await makeTarImage([200_000]);
        registry.addImage(image);
        const repository = `containerd/${name.replaceAll(' ', '-')}`;
        registry.behaviours.set(`/v2/${repository}/`, how);
        const containerd = await Containerd.start(hostsDirOf(hostOf('child'), registry.address));
        await containerd.pull(`${registry.address}/${repository}:1`);
        const asked = registry.askedFor(`/v2/${repository}/manifests/1`);
        expect(asked.filter(({ client }) => client === 'containerd')).not.toEqual([]);
        // However often the client tries, the agent does not ask the registry each time.
        expect(asked.filter(({ client }) => client === 'xylem').length).toBeLessThanOrEqual(10);
      },
    );

    it('of a child, whose answer was truncated, asks it for the rest', async () => {
      const image = await makeTarImage([6_000_000]);
      registry.addImage(image);
      const [layer] = image.layers;
      const child = hostOf('child');
      const proxy = await RegistryProxy.start(child.mirror.replace('http://', ''));
      const ranges: (string | undefined)[] = [];
      proxy.misbehave = (asked, response) => {
        if (asked.method !== 'GET' || !asked.url?.includes(String(layer?.digest))) return false;
        ranges.push(asked.headers.range);
        if (ranges.length > 1) return false;
        response.writeHead(200, { 'content-length': String(layer?.sizeBytes) });
        void ask('child', `team/app/blobs/${layer?.digest}`).then(({ body }) =>
          response.write(body.subarray(0, 1_000_000), () => response.destroy()),
        );
        return true;
      };
      const mirrored = { ...child, mirror: `http://${proxy.address}` };
      const containerd = await Containerd.start(hostsDirOf(mirrored, registry.address));
      await containerd.pull(`${registry.address}/team/app:1`);
      expect(ranges[1]).toMatch(/^bytes=[0-9]+-$/);
      expect(await containerd.content()).toContain(layer?.digest);
    });

    it("of a child, on the registry's demand, sends the child its password", async () => {
      const image = await makeTarImage([200_000]);
      registry.addImage(image);
      const user = 'reader:secret';
      const repository = 'containerd/password';
      registry.behaviours.set(`/v2/${repository}/`, (asked, response) => {
        const basic = `Basic ${Buffer.from(user).toString('base64')}`;
        if (asked.headers.authorization === basic) return false;
        response.writeHead(401, BASIC).end();
        return true;
      });
      const child = hostOf('child');
      const proxy = await RegistryProxy.start(child.mirror.replace('http://', ''));
      const mirrored = { ...child, mirror: `http://${proxy.address}` };
      const containerd = await Containerd.start(hostsDirOf(mirrored, registry.address));
      await containerd.pull(`${registry.address}/${repository}:1`, ['--user', user]);
      expect(proxy.requests.some(({ authorization }) => authorization?.startsWith('Basic '))).toBe(
        true,
      );
    });
  },
);
