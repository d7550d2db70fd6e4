import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import { startServedCluster, type ServedCluster } from '../kit/served-cluster.ts';
import { ask } from './kit/local-client.ts';

const CHILDREN = 8;

/** One stripe, and a blob of several. */
const SIZES_BYTES = [700_003, 65 * 1024 * 1024];

/** The heads and indexes that overlaybd reads when it opens a layer, as offsets from either end. */
const OPENING_READS = [
  { at: 'start', length: 105 },
  { at: 'start', length: 512 },
  { at: 'end', length: 512 },
  { at: 'end', length: 970 },
] as const;

/** Reads of the container, and one piece of a background download. */
const READS = [
  { share: 0.3, length: 65_536 },
  { share: 0.7, length: 4096 },
  { share: 0.5, length: 262_144 },
];

/** Where registries redirect, as seen in public: path and query of one client's signed URL. */
const SHAPES: readonly (readonly [name: string, path: (hex: string) => string])[] = [
  ['Distribution on S3', (hex) => `/s3/docker/registry/v2/blobs/sha256/${pair(hex)}/${hex}/data`],
  ['Azure', (hex) => `/azure/id//docker/registry/v2/blobs/sha256/${pair(hex)}/${hex}/data`],
  ['GitHub', (hex) => `/ghcr1/blobs/sha256:${hex}`],
  ['Quay', (hex) => `/quay/bucket/sha256/${pair(hex)}/${hex}`],
  ['older Google', (hex) => `/bucket/containers/images/sha256:${hex}`],
];

function pair(hex: string): string {
  return hex.slice(0, 2);
}

const TOKEN = 'Bearer from-the-token-service';

let served: ServedCluster | undefined;
let cluster: AgentCluster;
const registry = new FakeRegistry();
const storage = new FakeRegistry();
/** What the storage refused: what a bucket refuses in public. */
const refused: string[] = [];

beforeAll(async () => {
  storage.behaviours.set('', ({ method, url = '', headers }, response) => {
    const isSigned = /[?&]sig=host-\d&se=\d+$/.test(url);
    if (method === 'GET' && isSigned && headers.authorization === undefined) return false;
    refused.push(`${method} ${url}`);
    response.writeHead(headers.authorization === undefined ? 403 : 400).end();
    return true;
  });
  served = await startServedCluster([registry, storage], () => {
    const prefixes = [`http://${storage.address}/`];
    const registries = [{ host: registry.address, insecure: true, storage: prefixes }];
    return { roots: 2, children: CHILDREN, config: () => ({ registries }) };
  });
  ({ cluster } = served);
});

afterAll(() => served?.stop());

/** overlaybd on one host: it asks the registry itself, and its agent for what it is sent to. */
async function replay(
  host: ClusterHost,
  blob: FakeBlob,
  asRedirect: () => string,
): Promise<readonly number[]> {
  const asked = await fetch(registry.url('app', blob), {
    headers: { authorization: TOKEN },
    redirect: 'manual',
  });
  await asked.body?.cancel();
  expect(asked.status).toBe(307);
  const url = asRedirect();
  const size = blob.bytes.length;
  const opening = OPENING_READS.map(({ at, length }) => ({
    offset: at === 'start' ? 0 : size - length,
    length,
  }));
  const reads = READS.map(({ share, length }) => ({ offset: Math.floor(size * share), length }));
  const statuses: number[] = [];
  for (const { offset, length } of [...opening, ...reads]) {
    const end = Math.min(offset + length, size);
    const headers = { range: `bytes=${offset}-${end - 1}` };
    const answer = await ask(host.local, `/dadip2p/${url}`, { headers, method: 'GET' });
    statuses.push(answer.status);
    expect(answer.body.equals(blob.bytes.subarray(offset, end))).toBe(true);
    expect(answer.headers['content-range']).toBe(`bytes ${offset}-${end - 1}/${size}`);
  }
  return statuses;
}

/** Parts of a blob that the storage was asked for, without the single bytes that show rights. */
function partsOf(blob: FakeBlob): readonly string[] {
  const parts = storage.askedFor(blob.hex).map(({ range = 'all' }) => range);
  return parts.filter((range) => range !== 'bytes=0-0');
}

describe('overlaybd behind a registry that redirects, with a signature per host', () => {
  it.each(SHAPES)('reads each part once from %s', async (_name, path) => {
    registry.behaviours.set('/v2/app/', (request, response) => {
      const isKnown = request.headers.authorization === TOKEN;
      const location = `http://${storage.address}/elsewhere`;
      response.writeHead(isKnown ? 307 : 401, isKnown ? { location } : {}).end();
      return true;
    });
    for (const sizeBytes of SIZES_BYTES) {
      const blob = registry.add(sizeBytes);
      storage.share(blob);
      const statuses = await Promise.all(
        cluster.children.map((host, i) =>
          replay(
            host,
            blob,
            () => `http://${storage.address}${path(blob.hex)}?sig=host-${i}&se=${Date.now() + i}`,
          ),
        ),
      );
      expect(new Set(statuses.flat())).toEqual(new Set([206]));
      const parts = partsOf(blob);
      expect(parts).not.toContain('all');
      expect(parts).toEqual([...new Set(parts)]);
    }
    expect(refused).toEqual([]);
    const status = await Promise.all(cluster.children.map((host) => cluster.status(host)));
    for (const { bytesBySource } of status) expect(bytesBySource['fallback'] ?? 0).toBe(0);
  });
});
