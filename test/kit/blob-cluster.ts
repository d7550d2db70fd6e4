import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AgentCluster, ClusterInit } from '../../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { convertDirectory } from '../../src/convert/convert-directory.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import type { BlobRef } from '../../src/image/block.ts';
import { digestHex } from '../../src/image/digest.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { clusterFolder, startServedCluster } from './served-cluster.ts';

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
  const dir = await clusterFolder();
  const [source, layout] = [join(dir, 'source'), join(dir, 'oci')];
  await mkdir(source);
  await writeFile(join(source, 'data'), randomBytes(dataBytes));
  const parts = { codec: new NodeCodec(), hash: new NodeHash() };
  const { layer } = await convertDirectory(
    parts,
    source,
    new LayoutPlace(parts, `oci:${layout}:latest`),
  );
  const bytes = await readFile(join(layout, 'blobs', 'sha256', digestHex(layer.digest)));
  const registry = new EmbeddedRegistry({ layoutDir: layout, repository: 'app' });
  const started = await startServedCluster([registry], () => hosts, dir);
  return { dir, registry, blob: layer, bytes, ...started };
}
