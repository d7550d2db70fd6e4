import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import { startServedCluster, type ServedCluster } from '../kit/served-cluster.ts';
import { ask } from './kit/local-client.ts';

/** Nine blocks and a bit, in eight stripes. */
const BLOB_BYTES = 9 * 1024 * 1024 + 100;
const PART_BYTES = 65_536;
const CHILDREN = 4;

let served: ServedCluster | undefined;
let cluster: AgentCluster;
const storage = new FakeRegistry();

beforeAll(async () => {
  served = await startServedCluster([storage], () => {
    const prefixes = [`http://${storage.address}/docker/`];
    const registries = [{ host: 'registry.test', storage: prefixes, insecure: true }];
    return { roots: 2, children: CHILDREN, config: () => ({ registries }) };
  });
  ({ cluster } = served);
});

afterAll(() => served?.stop());

/** Reads all of a blob in parts, as overlaybd does, by a signature of this host. */
async function readBy(host: ClusterHost, blob: FakeBlob, signature: string): Promise<void> {
  for (let offset = 0; offset < BLOB_BYTES; offset += PART_BYTES) {
    const end = Math.min(offset + PART_BYTES, BLOB_BYTES) - 1;
    const url = storage.signedUrl(blob, signature);
    const headers = { range: `bytes=${offset}-${end}` };
    const { status, body } = await ask(host.local, `/dadip2p/${url}`, { headers, method: 'GET' });
    expect(status, body.toString('latin1', 0, 200)).toBe(206);
    expect(body.equals(blob.bytes.subarray(offset, end + 1))).toBe(true);
  }
}

/** Bytes that were asked of the storage for the blob, without the single ones that show rights. */
function originBytes(blob: FakeBlob): number {
  return storage.askedFor(blob.hex).reduce((sum, { range }) => {
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
    const length = Number(last) - Number(first) + 1;
    return length === 1 ? sum : sum + length;
  }, 0);
}

describe('a storage URL with a signature per host, and no Authorization', () => {
  it('is lent to the roots, which read each block once for all hosts', async () => {
    const blob = storage.add(BLOB_BYTES);
    const { children } = cluster;
    await Promise.all(children.map((host, i) => readBy(host, blob, `sig=host-${i}`)));
    expect(originBytes(blob)).toBe(BLOB_BYTES);
    const status = await Promise.all(children.map((host) => cluster.status(host)));
    for (const { bytesBySource } of status) expect(bytesBySource['fallback'] ?? 0).toBe(0);
  });

  it('that the storage refuses opens nothing, also what all hosts hold', async () => {
    const blob = storage.add(BLOB_BYTES);
    const [child] = cluster.children;
    if (child === undefined) throw new Error('no child');
    await readBy(child, blob, 'sig=good');
    storage.behaviours.set(
      `/docker/blobs/sha256/${blob.hex.slice(0, 2)}/${blob.hex}`,
      (request, response) => {
        if (request.url?.endsWith('sig=good') === true) return false;
        response.writeHead(403).end();
        return true;
      },
    );
    const url = storage.signedUrl(blob, 'sig=stolen');
    const answer = await ask(child.local, `/dadip2p/${url}`, {
      headers: { range: 'bytes=0-99' },
      method: 'GET',
    });
    expect(answer.status).toBe(403);
  });

  it('that ends in the middle of a blob is followed by the next one', async () => {
    const blob = storage.add(BLOB_BYTES);
    const [one, two] = cluster.children;
    if (one === undefined || two === undefined) throw new Error('no children');
    let isOver = false;
    storage.behaviours.set(
      `/docker/blobs/sha256/${blob.hex.slice(0, 2)}/${blob.hex}`,
      (request, response) => {
        if (!isOver || request.url?.endsWith('sig=second') === true) return false;
        response.writeHead(403).end();
        return true;
      },
    );
    const first = storage.signedUrl(blob, 'sig=first');
    const headers = { range: 'bytes=0-99' };
    const begun = await ask(one.local, `/dadip2p/${first}`, { headers, method: 'GET' });
    expect(begun.status).toBe(206);
    isOver = true;
    await readBy(two, blob, 'sig=second');
  });
});
