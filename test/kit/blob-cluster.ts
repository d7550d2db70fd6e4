import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentCluster, type ClusterInit } from '../../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { convertDirectory } from '../../src/convert/convert-directory.ts';
import type { BlobRef } from '../../src/image/block.ts';
import { digestHex } from '../../src/image/digest.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';

/**
 * Real agents without devices, and a registry (repository `app`) with an image of one layer of
 * random bytes. Needs mke2fs.
 */
export interface BlobCluster {
  readonly dir: string;
  readonly registry: EmbeddedRegistry;
  readonly cluster: AgentCluster;
  readonly blob: BlobRef;
  /** The blob as the registry has it. */
  readonly bytes: Uint8Array;
  stop(): Promise<void>;
}

export async function startBlobCluster(
  dataBytes: number,
  hosts: Pick<ClusterInit, 'roots' | 'relays' | 'children'>,
): Promise<BlobCluster> {
  const dir = await mkdtemp(join(tmpdir(), 'xylem-test-'));
  const [source, layout] = [join(dir, 'source'), join(dir, 'oci')];
  await mkdir(source);
  await writeFile(join(source, 'data'), randomBytes(dataBytes));
  const parts = { codec: new NodeCodec(), hash: new NodeHash() };
  const { layer } = await convertDirectory(parts, source, { directory: layout, tag: 'latest' });
  const bytes = await readFile(join(layout, 'blobs', 'sha256', digestHex(layer.digest)));
  const registry = new EmbeddedRegistry({ layoutDir: layout, repository: 'app' });
  await registry.start();
  const cluster = new AgentCluster({ ...hosts, dir, devices: false, registry: registry.address });
  const stop = async (): Promise<void> => {
    await cluster.stop();
    await registry.stop();
    await rm(dir, { recursive: true, force: true });
  };
  try {
    await cluster.start();
  } catch (error) {
    await stop();
    throw error;
  }
  return { dir, registry, cluster, blob: layer, bytes, stop };
}
