import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ManifestCache } from '../../../src/edge/mirror/manifest-cache.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const ORIGIN = { registry: 'r.example', repository: 'a/b' };
const MIB = 1024 * 1024;

function manifestOf(bytes: Uint8Array) {
  return { digest: digestOf(bytes), mediaType: 'application/x', bytes };
}

async function open(root: string): Promise<ManifestCache> {
  const parts = { disk: new NodeDisk({ root }), hash: new NodeHash(), logger: silentLogger };
  const cache = new ManifestCache(parts);
  await cache.start();
  return cache;
}

describe('ManifestCache', () => {
  it('keeps manifests and tags of each repository apart, over a restart', async () => {
    const root = tempFolder();
    const cache = await open(root);
    const manifest = manifestOf(new Uint8Array(randomBytes(100_000)));
    cache.putManifest(ORIGIN, manifest);
    cache.putTag(ORIGIN, '1', { digest: manifest.digest, checkedMs: 5 });
    cache.putTag(ORIGIN, '1', { digest: manifest.digest, checkedMs: 7 });
    await cache.stop();
    for (const each of [cache, await open(root)]) {
      expect(each.manifest(ORIGIN, manifest.digest)).toEqual(manifest);
      expect(each.tag(ORIGIN, '1')).toEqual({ digest: manifest.digest, checkedMs: 7 });
      expect(each.manifest({ ...ORIGIN, repository: 'c' }, manifest.digest)).toBeUndefined();
      expect(each.tag(ORIGIN, '2')).toBeUndefined();
    }
    expect(readdirSync(join(root, 'manifests')).length).toBe(2);
  });

  it('drops files whose content has changed', async () => {
    const root = tempFolder();
    const cache = await open(root);
    const manifest = manifestOf(new Uint8Array(randomBytes(1000)));
    cache.putManifest(ORIGIN, manifest);
    await cache.stop();
    const folder = join(root, 'manifests');
    const [name = ''] = readdirSync(folder);
    const file = readFileSync(join(folder, name));
    const changed = Buffer.from(file);
    changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1;
    for (const bytes of [changed, file.subarray(0, 900), Buffer.from('{}\n'), Buffer.alloc(0)]) {
      writeFileSync(join(folder, name), bytes);
      writeFileSync(join(folder, 'stray.new'), file);
      const next = await open(root);
      expect(next.manifest(ORIGIN, manifest.digest)).toBeUndefined();
      expect(readdirSync(folder)).toEqual([]);
    }
  });

  it('evicts the least recently used entries, in memory and on disk', async () => {
    const root = tempFolder();
    const cache = await open(root);
    const manifests = Array.from({ length: 6 }, () =>
      manifestOf(new Uint8Array(randomBytes(3 * MIB))),
    );
    for (const manifest of manifests) {
      cache.putManifest(ORIGIN, manifest);
      // The first one is in use.
      cache.manifest(ORIGIN, manifests[0]?.digest ?? manifest.digest);
    }
    await cache.stop();
    const held = manifests.map(({ digest }) => cache.manifest(ORIGIN, digest) !== undefined);
    expect(held).toEqual([true, false, true, true, true, true]);
    expect(readdirSync(join(root, 'manifests')).length).toBe(5);
  });
});
