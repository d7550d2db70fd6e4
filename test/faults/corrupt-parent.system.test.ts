import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { HttpBlobReader } from '../../src/demo/http-blob-reader.ts';
import { convertDirectory } from '../../src/convert/convert-directory.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import type { BlobRef } from '../../src/image/block.ts';
import { digestHex } from '../../src/image/digest.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { bytesEqual } from '../../src/util/bytes.ts';
import { peerId } from '../../src/util/peer-id.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { flipBit, startHostileAgent, type HostileAgent } from './hostile-agent.ts';

const CHILDREN = 6;
const READ_BYTES = 512 * 1024;

interface Setup {
  readonly cluster: AgentCluster;
  readonly registry: EmbeddedRegistry;
  readonly blob: BlobRef;
  readonly bytes: Uint8Array;
  readonly hostile: HostileAgent;
}

/**
 * Starts a root, one agent that tampers with the blocks that it serves, and six agents in processes
 * of their own, which join the tree after it.
 */
async function setUp(): Promise<Setup> {
  const dir = tempFolder();
  const [source, layout] = [join(dir, 'source'), join(dir, 'oci')];
  await mkdir(source);
  await writeFile(join(source, 'data'), randomBytes(6 * 1024 * 1024));
  const parts = { codec: new NodeCodec(), hash: new NodeHash() };
  const target = new LayoutPlace(parts, `oci:${layout}:a`);
  const { layer: blob } = await convertDirectory(parts, source, target);
  const bytes = await readFile(join(layout, 'blobs', 'sha256', digestHex(blob.digest)));
  const registry = new EmbeddedRegistry({ layoutDir: layout, repository: 'app' });
  await registry.start();
  onTestFinished(() => registry.stop());
  const cluster = new AgentCluster({
    dir,
    roots: 1,
    children: CHILDREN,
    registry: registry.address,
    devices: false,
  });
  onTestFinished(() => cluster.stop());
  await cluster.start();
  const clusterKey = (await readFile(join(dir, 'keys', 'cluster.key'), 'utf8')).trim();
  const roots = await Promise.all(
    cluster.roots.map(async (root) => {
      const { addresses } = await cluster.status(root);
      return { peer: peerId(root.peer), addresses };
    }),
  );
  const hostile = await startHostileAgent({
    clusterKey: new TextEncoder().encode(clusterKey),
    roots,
    tamper: flipBit,
  });
  onTestFinished(() => hostile.stop());
  const origin = { registry: registry.address, repository: 'app' };
  await hostile.engine.tree.open([{ blob, origin }]);
  return { cluster, registry, blob, bytes, hostile };
}

/** Reads the whole blob on one host. Throws at a wrong byte. */
async function readAll({ blob, bytes, registry }: Setup, host: ClusterHost): Promise<void> {
  const origin = { registry: registry.address, repository: 'app' };
  const reader = new HttpBlobReader({ base: host.local, origin });
  try {
    for (let offset = 0; offset < blob.sizeBytes; offset += READ_BYTES) {
      const length = Math.min(READ_BYTES, blob.sizeBytes - offset);
      const piece = await reader.read(blob, offset, length, { kind: 'demand' });
      const right = bytesEqual(piece, bytes.subarray(offset, offset + length));
      expect(right, `${host.name} at ${offset}`).toBe(true);
    }
  } finally {
    reader.close();
  }
}

/** Sum of the samples of a metric whose labels include these. */
async function metric(host: ClusterHost, name: string, labels: string): Promise<number> {
  const text = await (await fetch(`${host.process.admin}/metrics`)).text();
  return text
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`) && line.includes(labels))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

describeWith('a parent that tampers with its blocks', [needs.program('mke2fs')], () => {
  it('harms no read, and the hosts that it served ban it and nobody else', async () => {
    const setup = await setUp();
    const { cluster, hostile } = setup;
    // One after another: they form one tree, with the hostile agent as the first child of the root.
    for (const host of cluster.children) await readAll(setup, host);
    expect(hostile.served()).toBeGreaterThan(0);
    let victims = 0;
    for (const host of cluster.children) {
      const rejected = await metric(host, 'xylem_block_rejected_total', 'reason="bad"');
      const banned = await metric(host, 'xylem_peer_lost_total', 'reason="corrupt"');
      const log = await readFile(host.process.logFile, 'utf8');
      const blamed = [...log.matchAll(/"peer":"([^"]+)","reason":"corrupt"/g)].map(
        ([, who]) => who,
      );
      expect(blamed.every((peer) => peer === hostile.peer)).toBe(true);
      expect(blamed.length).toBe(banned);
      if (rejected > 0) victims++;
      expect(banned > 0).toBe(rejected > 0);
      // Banned at the first bad block: answers in flight at that moment may still arrive, but no
      // request follows.
      expect(rejected).toBeLessThanOrEqual(32);
      const status = await cluster.status(host);
      expect(status.failedReads).toBe(0);
      expect(status.bytesBySource['fallback'] ?? 0).toBe(0);
    }
    expect(victims).toBeGreaterThan(0);
  }, 180_000);
});
