import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlobOrigin, BlobRef } from '../../../src/image/block.ts';
import { opaqueKey, quarantineKey } from '../../../src/image/blob-key.ts';
import { parseDigest, type Digest } from '../../../src/image/digest.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import type { TreeDriver } from '../../../src/transfer/drive/tree-driver.ts';
import type { HostCard } from '../../../src/tree/messages.ts';
import { defined } from '../../../src/util/assert.ts';
import { Cluster, ORIGIN, type Node } from '../../kit/engine-cluster.ts';

const hash = new NodeHash();
const cluster = new Cluster();
let root: Node;
let tree: TreeDriver<unknown, unknown>;
let count = 0;

beforeAll(async () => {
  await cluster.start({ roots: 1, children: 1 });
  root = defined(cluster.roots[0], 'a root');
  tree = root.engine.tree as TreeDriver<unknown, unknown>;
});
afterAll(() => cluster.stop());

/** An opaque blob that no other test has. */
function opaqueBlob(): { readonly blob: BlobRef; readonly origin: BlobOrigin } {
  const opaque = { path: `id/${count++}`, etag: '"e"', sizeBytes: 1000 };
  const origin = { registry: 'b.test', repository: '', storage: 'https://b.test/', opaque };
  return { blob: { digest: opaqueKey(hash, origin), sizeBytes: 1000 }, origin };
}

/** A host says in a JOIN where a blob is. */
async function join(blob: BlobRef, origin: BlobOrigin): Promise<BlobOrigin | undefined> {
  const child = defined(cluster.children[0], 'a child').host;
  const host: HostCard = { ...child, zone: 'z', capacity: 2 };
  const wanted = { blob, origin, stripes: [0], held: [] };
  await tree.handlers.join?.(child.peer, { host, blobs: [wanted] });
  return tree.origins.of(blob.digest);
}

describe('TreeDriver, keys that are no digests', () => {
  it('takes an opaque name from a host only with the key and the size that it makes', async () => {
    const { blob, origin } = opaqueBlob();
    const other = opaqueBlob();
    expect(await join(blob, other.origin)).toBeUndefined();
    expect(await join({ ...other.blob, sizeBytes: 999 }, other.origin)).toBeUndefined();
    expect(await join(blob, origin)).toEqual(origin);
    expect(tree.contentOf(blob.digest)).toBeUndefined();
  });

  it('lets no host make a digest of a key, before or after its origin is known', async () => {
    const { blob, origin } = opaqueBlob();
    const elsewhere = { ...ORIGIN, storage: 'https://s.test/' };
    expect(await join(blob, ORIGIN)).toBeUndefined();
    expect(await join(blob, elsewhere)).toBeUndefined();
    expect(tree.contentOf(blob.digest)).toBeUndefined();
    expect(await join(blob, origin)).toEqual(origin);
    expect(await join(blob, ORIGIN)).toEqual(origin);
    expect(await join(blob, elsewhere)).toEqual(origin);
  });

  it('takes no digest beside an opaque name, against which its blocks would be held', async () => {
    const { blob, origin } = opaqueBlob();
    expect(await join(blob, { ...origin, content: blob.digest })).toBeUndefined();
  });

  it('opens no blob by a key as if it were a digest, as mounts and preheats do', async () => {
    const { blob, origin } = opaqueBlob();
    await join(blob, origin);
    await expect(tree.open([{ blob, origin: ORIGIN }])).rejects.toMatchObject({
      code: 'unknown-blob',
    });
  });

  it('does the same for keys of sources that are not believed', async () => {
    const content = defined(parseDigest(`sha256:${'ab'.repeat(32)}`), 'a digest');
    const at = { registry: 'stranger.test', repository: 'a' };
    const blob = { digest: quarantineKey(hash, content, at), sizeBytes: 1000 };
    const origin = { ...at, content };
    expect(await join(blob, ORIGIN)).toBeUndefined();
    expect(await join(blob, origin)).toEqual(origin);
    expect(await join(blob, ORIGIN)).toEqual(origin);
    expect(tree.contentOf(blob.digest)).toBe(content);
    await expect(tree.open([{ blob, origin: ORIGIN }])).rejects.toMatchObject({
      code: 'unknown-blob',
    });
  });

  it('takes no digest as if it were a key', async () => {
    const { origin } = opaqueBlob();
    const digest = defined(parseDigest(`sha256:${'ef'.repeat(32)}`), 'a digest');
    const blob = { digest, sizeBytes: 1000 };
    expect(await join(blob, origin)).toBeUndefined();
  });

  it('a digest is the digest of its content', async () => {
    const digest: Digest = defined(parseDigest(`sha256:${'cd'.repeat(32)}`), 'a digest');
    expect(await join({ digest, sizeBytes: 1000 }, ORIGIN)).toEqual(ORIGIN);
    expect(tree.contentOf(digest)).toBe(digest);
  });

  it('lets no hostile JOIN move a blob that this root found in a registry', async () => {
    const blob = cluster.origin.add(1000);
    const found = { ...ORIGIN, repository: 'team/app' };
    tree.origins.found(blob.digest, found);
    expect(await join(blob, { ...ORIGIN, repository: 'evil' })).toBe(found);
  });
});
