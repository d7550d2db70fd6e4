import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import { FakeRegistry } from '../kit/fake-registry.ts';
import { startServedCluster, type ServedCluster } from '../kit/served-cluster.ts';
import { OpaqueObject } from '../kit/opaque-object.ts';
import { defined } from '../../src/util/assert.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { ask, type Answer } from './kit/local-client.ts';

/** Nine blocks and a bit, in eight stripes. */
const BLOB_BYTES = 9 * 1024 * 1024 + 100;
const PART_BYTES = 65_536;
const CHILDREN = 4;

let served: ServedCluster | undefined;
let cluster: AgentCluster;
const storage = new FakeRegistry();

beforeAll(async () => {
  served = await startServedCluster([storage], () => {
    const opaqueStorage = [`http://${storage.address}/ecr/`];
    const registries = [{ host: 'registry.test', opaqueStorage, insecure: true }];
    return { roots: 2, children: CHILDREN, config: () => ({ registries }) };
  });
  ({ cluster } = served);
  // Roots that have not read a storage yet may take longer than their hosts wait for them.
  for (const [i, host] of cluster.children.entries()) {
    const object = new OpaqueObject(storage, randomBytes(1000));
    await readAll(host, object, `host-${i}`);
  }
});

afterAll(() => served?.stop());

function read(host: ClusterHost, url: string, range: string): Promise<Answer> {
  return ask(host.local, `/dadip2p/${url}`, { headers: { range }, method: 'GET' });
}

/** Reads all of an object in parts, as overlaybd does, by a signature of this host. */
async function readAll(host: ClusterHost, object: OpaqueObject, signer: string): Promise<void> {
  for (let offset = 0; offset < object.bytes.length; offset += PART_BYTES) {
    const end = Math.min(offset + PART_BYTES, object.bytes.length) - 1;
    const answer = await read(host, object.signedUrl(signer), `bytes=${offset}-${end}`);
    expect(answer.status, answer.body.toString('latin1', 0, 200)).toBe(206);
    expect(answer.headers['content-range']).toBe(`bytes ${offset}-${end}/${object.bytes.length}`);
    expect(answer.headers.etag).toBe(object.etag);
    expect(answer.body.equals(object.bytes.subarray(offset, end + 1))).toBe(true);
  }
}

describe('a signed storage URL without a digest', () => {
  it('is lent to the roots, which read each block once for all hosts', async () => {
    const object = new OpaqueObject(storage, randomBytes(BLOB_BYTES));
    const { children } = cluster;
    await Promise.all(children.map((host, i) => readAll(host, object, `host-${i}`)));
    expect(object.givenBytes()).toBe(BLOB_BYTES);
    const status = await Promise.all(children.map((host) => cluster.status(host)));
    for (const { bytesBySource } of status) expect(bytesBySource['fallback'] ?? 0).toBe(0);
    const reads = object.asked.filter(({ range }) => range !== 'bytes=0-0');
    expect(new Set(reads.map(({ ifMatch }) => ifMatch))).toEqual(new Set([object.etag]));
    expect(new Set(object.asked.map(({ status: code }) => code))).toEqual(new Set([206]));
  });

  it('opens nothing when its signature is stolen, also of what all hosts hold', async () => {
    const object = new OpaqueObject(storage, randomBytes(BLOB_BYTES));
    const [child, other] = cluster.children;
    await readAll(defined(child, 'a child'), object, 'owner');
    object.refused.add('thief');
    for (const host of [child, other]) {
      const url = object.signedUrl('thief');
      expect((await read(defined(host, 'a child'), url, 'bytes=0-99')).status).toBe(403);
      const forged = url.replace(/Signature=..../, 'Signature=0000');
      expect((await read(defined(host, 'a child'), forged, 'bytes=0-99')).status).toBe(403);
    }
    expect(
      object.asked.filter(({ signer, status }) => signer === 'thief' && status === 206),
    ).toEqual([]);
  });

  it('gives what stands there now when the object changes in the middle', async () => {
    const object = new OpaqueObject(storage, randomBytes(BLOB_BYTES));
    const [one, two] = cluster.children;
    const begun = await read(defined(one, 'a child'), object.signedUrl('one'), 'bytes=0-99');
    expect(begun.body.equals(object.bytes.subarray(0, 100))).toBe(true);
    object.replace(randomBytes(BLOB_BYTES - 1000));
    await readAll(defined(two, 'a child'), object, 'two');
    const late = `bytes=${BLOB_BYTES - 300_000}-${BLOB_BYTES - 200_001}`;
    const answer = await read(defined(one, 'a child'), object.signedUrl('one'), late);
    expect(answer.headers.etag).toBe(object.etag);
    expect(answer.headers['content-range']).toMatch(new RegExp(`/${object.bytes.length}$`));
    const [first, last] = [BLOB_BYTES - 300_000, BLOB_BYTES - 200_000];
    expect(answer.body.equals(object.bytes.subarray(first, last))).toBe(true);
    await readAll(defined(one, 'a child'), object, 'one');
  });

  it('is read from the store after a restart, once it is shown that it may', async () => {
    const object = new OpaqueObject(storage, randomBytes(BLOB_BYTES));
    const child = defined(cluster.children[2], 'a child');
    await readAll(child, object, 'before');
    await cluster.restart(child);
    await waitReady(child.process);
    object.refused.add('before');
    expect((await read(child, object.signedUrl('before'), 'bytes=0-99')).status).toBe(403);
    await readAll(child, object, 'after');
    expect(object.givenBytes()).toBe(BLOB_BYTES);
    expect((await cluster.status(child)).bytesBySource['disk'] ?? 0).toBeGreaterThan(0);
  });

  it('without an ETag is passed through, for each host', async () => {
    const object = new OpaqueObject(storage, randomBytes(100_000));
    object.etag = undefined;
    for (const [i, host] of cluster.children.slice(0, 2).entries()) {
      const answer = await read(host, object.signedUrl(`host-${i}`), 'bytes=0-99999');
      expect(answer.body.equals(object.bytes)).toBe(true);
    }
    expect(object.givenBytes()).toBe(200_000);
  });

  it('whose object is of one block, read whole, comes as it is and is shared', async () => {
    const object = new OpaqueObject(storage, randomBytes(100_000));
    for (const [i, host] of cluster.children.entries()) {
      const url = `/dadip2p/${object.signedUrl(`host-${i}`)}`;
      const answer = await ask(host.local, url, { method: 'GET' });
      expect(answer.status).toBe(200);
      expect(answer.body.equals(object.bytes)).toBe(true);
    }
    expect(object.givenBytes()).toBe(100_000);
  });
});
