import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { MIB } from '../../src/util/bytes.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import { startServedCluster, type ServedCluster } from '../kit/served-cluster.ts';

describe('agents whose registry sent wrong bytes of a blob', () => {
  let registry: FakeRegistry;
  let served: ServedCluster;
  let cluster: AgentCluster;

  beforeEach(async () => {
    registry = new FakeRegistry();
    served = await startServedCluster([registry], () => ({ roots: 1, children: 2 }));
    ({ cluster } = served);
  }, 120_000);

  afterEach(() => served.stop(), 60_000);

  async function read(
    host: ClusterHost,
    { digest }: FakeBlob,
    { at = 0, length = MIB } = {},
  ): Promise<Buffer> {
    const url = `${host.local}/http://${registry.address}/v2/app/blobs/${digest}`;
    const range = `bytes=${at}-${at + length - 1}`;
    const response = await fetch(url, { headers: { range } });
    expect(response.status).toBe(206);
    return Buffer.from(await response.arrayBuffer());
  }

  /** In parts, since a small blob that is asked for as a whole is checked before it is sent. */
  async function readAll(host: ClusterHost, blob: FakeBlob): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let at = 0; at < blob.bytes.length; at += MIB) parts.push(await read(host, blob, { at }));
    return Buffer.concat(parts);
  }

  const distrusted = (host: ClusterHost): Promise<string> =>
    readFile(join(host.storeDir, 'distrusted'), 'utf8').catch(() => '');

  it('give the right ones once a host had the complete blob, over restarts too', async () => {
    const [root] = cluster.roots as [ClusterHost];
    const [reader, keeper] = cluster.children as [ClusterHost, ClusterHost];
    const blob = registry.add(3 * MIB);
    const right = Buffer.from(blob.bytes);
    blob.bytes[5]! ^= 1;
    expect((await read(keeper, blob, { length: 100 })).equals(right.subarray(0, 100))).toBe(false);
    expect((await readAll(reader, blob)).equals(right)).toBe(false);
    blob.bytes[5]! ^= 1;
    await vi.waitFor(async () => expect(await distrusted(root)).toBe(`${blob.digest}\nend\n`), {
      timeout: 30_000,
      interval: 100,
    });
    await cluster.restart(root);
    await cluster.restart(keeper);
    await Promise.all([root, keeper].map((host) => waitReady(host.process)));
    // The keeper has the wrong block on disk, and reads no other: it hears of it as it opens.
    expect((await read(keeper, blob, { length: 100 })).equals(right.subarray(0, 100))).toBe(true);
    expect(await distrusted(keeper)).toBe(`${blob.digest}\nend\n`);
    expect((await readAll(reader, blob)).equals(right)).toBe(true);
    for (const host of [reader, keeper]) {
      const { bytesBySource } = await cluster.status(host);
      expect(bytesBySource['fallback'] ?? 0).toBe(0);
    }
    const metrics = await (await fetch(`${root.process.admin}/metrics`)).text();
    expect(metrics).toContain('xylem_whole_reads_total{result="right"} 1');
  }, 120_000);
});
