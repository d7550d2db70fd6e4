import { writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { MIB } from '../../src/util/bytes.ts';
import { defined } from '../../src/util/assert.ts';
import { FakeRegistry, type Behaviour, type FakeBlob } from '../kit/fake-registry.ts';
import { ask, type Answer } from './kit/local-client.ts';

/** Sixty-four blocks and a bit. */
const BLOB_BYTES = 16 * MIB + 100;
const PART_BYTES = 256 * 1024;
const TOKEN = 'Bearer good';

/** The sha256 of a whole blob is checked in the background. */
const WHOLE_CHECK = { timeout: 10_000, interval: 200 };

const registry = new FakeRegistry();
let dir: string;
const clusters: AgentCluster[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'xylem-test-'));
  await registry.start();
});

afterAll(async () => {
  await Promise.all(clusters.map((cluster) => cluster.stop()));
  await registry.stop();
  await rm(dir, { recursive: true, force: true });
});

async function start(
  name: string,
  children: number,
  root: Readonly<Record<string, unknown>> = {},
): Promise<AgentCluster> {
  const place = join(dir, name);
  await mkdir(place);
  const entry = { host: registry.address, insecure: true };
  const cluster = new AgentCluster({
    dir: place,
    roots: 1,
    children,
    registry: registry.address,
    devices: false,
    config: (role) => ({ registries: [role === 'root' ? { ...entry, ...root } : entry] }),
  });
  clusters.push(cluster);
  await cluster.start();
  return cluster;
}

function unauthorized(response: ServerResponse): true {
  response.writeHead(401, { 'www-authenticate': 'Bearer realm="https://token.test/"' }).end();
  return true;
}

/** A blob in a repository of its own, whose requests behave so once they show a good token. */
function add(
  name: string,
  behaviour: Behaviour = () => false,
  tokens: ReadonlySet<string | undefined> = new Set([TOKEN]),
): FakeBlob {
  const blob = registry.add(BLOB_BYTES);
  registry.behaviours.set(`/v2/${name}/`, (request, response, asked) =>
    tokens.has(request.headers.authorization)
      ? behaviour(request, response, asked)
      : unauthorized(response),
  );
  return blob;
}

function read(
  host: ClusterHost,
  { name, blob }: { readonly name: string; readonly blob: FakeBlob },
  range: readonly [number, number] | undefined,
  authorization: string | undefined = TOKEN,
): Promise<Answer> {
  return ask(host.local, `/dadip2p/${registry.url(name, blob)}`, {
    method: 'GET',
    headers: {
      ...(range !== undefined && { range: `bytes=${range[0]}-${range[1] - 1}` }),
      ...(authorization !== '' && { authorization }),
    },
  });
}

/** Reads all of the blob in order, and compares it. */
async function readParts(host: ClusterHost, of: { name: string; blob: FakeBlob }): Promise<void> {
  for (let at = 0; at < BLOB_BYTES; at += PART_BYTES) {
    const end = Math.min(at + PART_BYTES, BLOB_BYTES);
    const { status, body } = await read(host, of, [at, end]);
    expect(status, body.toString('latin1', 0, 200)).toBe(206);
    expect(body.equals(of.blob.bytes.subarray(at, end))).toBe(true);
  }
}

async function sourcesOf(
  cluster: AgentCluster,
  host: ClusterHost,
): Promise<Readonly<Record<string, number>>> {
  const { bytesBySource } = await cluster.status(host);
  return bytesBySource as Readonly<Record<string, number>>;
}

/** What the registry was asked for in the repository, without the single bytes that show rights. */
function rangesOf(name: string): readonly string[] {
  return registry
    .askedFor(`/v2/${name}/`)
    .filter(({ authorization }) => authorization?.startsWith('Bearer') === true)
    .map(({ range }) => range ?? 'all')
    .filter((range) => range !== 'bytes=0-0');
}

describe('a blob that only the token of a client opens', () => {
  let cluster: AgentCluster;
  let one: ClusterHost;
  let two: ClusterHost;

  beforeAll(async () => {
    cluster = await start('tokens', 2);
    one = defined(cluster.children[0], 'a child');
    two = defined(cluster.children[1], 'a child');
  });

  it('is read by each host for itself, in long ranges, each byte once', async () => {
    const of = { name: 'plain', blob: add('plain') };
    const before = registry.sentBytes;
    await readParts(one, of);
    expect(registry.sentBytes - before).toBe(BLOB_BYTES + 1);
    expect(rangesOf('plain').length).toBeLessThan(20);
    const whole = await read(two, of, undefined);
    expect(whole.body.equals(of.blob.bytes)).toBe(true);
    expect(registry.sentBytes - before).toBe(2 * (BLOB_BYTES + 1));
    for (const host of [one, two]) {
      const sources = await sourcesOf(cluster, host);
      expect(sources['own-way']).toBe(BLOB_BYTES);
      expect([sources['fallback'], sources['parent'], sources['root']]).toEqual([
        undefined,
        undefined,
        undefined,
      ]);
    }
  });

  it('is held for those alone whose token the registry accepts', async () => {
    const of = { name: 'rights', blob: add('rights') };
    expect((await read(one, of, [0, 100])).status).toBe(206);
    const stranger = await read(one, of, [0, 100], 'Bearer stolen');
    expect(stranger.status).toBe(401);
    expect(stranger.headers['www-authenticate']).toContain('token.test');
    expect((await read(one, of, [0, 100], '')).status).toBe(401);
  });

  it('is in the store of its host, also for the next agent', async () => {
    const of = { name: 'kept', blob: add('kept') };
    await readParts(two, of);
    await cluster.restart(two);
    await waitReady(two.process);
    const before = rangesOf('kept').length;
    await readParts(two, of);
    expect(rangesOf('kept').length).toBe(before);
  });

  it('goes on by the token of another client when one ends in the middle', async () => {
    const tokens = new Set(['Bearer first', 'Bearer second']);
    const of = { name: 'ends', blob: add('ends', undefined, tokens) };
    const near: readonly [number, number] = [0, 100];
    expect((await read(one, of, near, 'Bearer first')).status).toBe(206);
    expect((await read(one, of, near, 'Bearer second')).status).toBe(206);
    tokens.delete('Bearer second');
    const refused = await read(one, of, [4 * MIB, 4 * MIB + 100], 'Bearer second');
    expect(refused.status).toBe(401);
    expect(refused.headers['www-authenticate']).toContain('token.test');
    const far: readonly [number, number] = [8 * MIB, 8 * MIB + 100];
    const other = await read(one, of, far, 'Bearer first');
    expect([other.status, other.body.equals(of.blob.bytes.subarray(...far))]).toEqual([206, true]);
    tokens.clear();
    expect((await read(one, of, [12 * MIB, 12 * MIB + 100], 'Bearer first')).status).toBe(401);
  });

  it('is read once from a registry that ignores ranges', async () => {
    const ignoring: Behaviour = (request) => {
      delete request.headers.range;
      return false;
    };
    const of = { name: 'rangeless', blob: add('rangeless', ignoring) };
    const before = registry.sentBytes;
    await readParts(one, of);
    // What is sent before a connection is cut comes on top: of the probe, and of the first ranges.
    expect(registry.sentBytes - before).toBeLessThan(3 * BLOB_BYTES);
  });

  it('goes on where a connection broke', async () => {
    let left = 10;
    const breaking: Behaviour = (request, response, blob) => {
      const [, first = '', last = ''] =
        /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
      if (blob === undefined || last === '0' || --left < 0) return false;
      const bytes = blob.bytes.subarray(Number(first), Number(last) + 1);
      response.writeHead(206, {
        'content-length': bytes.length,
        'content-range': `bytes ${first}-${last}/${blob.bytes.length}`,
      });
      response.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () => response.destroy());
      return true;
    };
    const of = { name: 'breaking', blob: add('breaking', breaking) };
    await readParts(one, of);
    expect(left).toBeLessThan(0);
  });

  it('is dropped when the whole of it is another blob than its name says', async () => {
    const of = { name: 'changed', blob: add('changed') };
    const wrong = { ...of.blob, bytes: Buffer.from(of.blob.bytes) };
    wrong.bytes[5 * MIB]! ^= 1;
    registry.share(wrong);
    await expect(read(one, of, undefined)).rejects.toThrow();
    registry.share(of.blob);
    await expect
      .poll(async () => {
        const { status, body } = await read(one, of, [5 * MIB, 5 * MIB + 10]);
        return status === 206 && body.equals(of.blob.bytes.subarray(5 * MIB, 5 * MIB + 10));
      }, WHOLE_CHECK)
      .toBe(true);
  });
});

describe('a blob that the root cannot read', () => {
  async function expectOwnWay(cluster: AgentCluster, name: string): Promise<void> {
    const [host] = cluster.children;
    const of = { name, blob: add(name) };
    const child = defined(host, 'a child');
    await readParts(child, of);
    const sources = await sourcesOf(cluster, child);
    expect(sources['own-way']).toBe(BLOB_BYTES);
    expect(sources['fallback']).toBeUndefined();
    expect(rangesOf(name).length).toBeLessThan(20);
  }

  it('since the registry refuses its credentials is read by the own way of its host', async () => {
    const credentialsFile = join(dir, 'credentials');
    writeFileSync(credentialsFile, 'root:wrong\n', { mode: 0o600 });
    const cluster = await start('refused', 1, { credentialsFile });
    await expectOwnWay(cluster, 'refused');
  });

  it('since it cannot reach the registry is read by the own way of its host', async () => {
    const cluster = await start('apart', 1, { proxy: 'http://127.0.0.1:9' });
    await expectOwnWay(cluster, 'apart');
    const of = { name: 'open', blob: add('open', undefined, new Set([undefined])) };
    const child = defined(cluster.children[0], 'a child');
    const { status, body } = await read(child, of, [0, 100], '');
    expect([status, body.equals(of.blob.bytes.subarray(0, 100))]).toEqual([206, true]);
  });
});
