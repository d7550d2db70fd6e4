import { describe, expect, it } from 'vitest';
import { ownWayKey, quarantineKey, sourceOf } from '../../src/image/blob-key.ts';
import { parseDigest } from '../../src/image/digest.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { defined } from '../../src/util/assert.ts';

const hash = new NodeHash();
const digest = defined(parseDigest(`sha256:${'ab'.repeat(32)}`), 'a digest');
const other = defined(parseDigest(`sha256:${'cd'.repeat(32)}`), 'a digest');
const registry = { registry: 'evil.example', repository: 'x/y' };
const storage = { registry: 's.example', repository: '', storage: 'https://s.example/b/' };

describe('quarantineKey()', () => {
  it('is its golden value', () => {
    expect(quarantineKey(hash, digest, registry)).toBe(
      'sha256:1f8402d680dd188c27d4f1884a42fc28d6cf196dfd87c48c9eab577fbb579a17',
    );
  });

  it('tells digests and sources apart, and nothing else', () => {
    const key = quarantineKey(hash, digest, registry);
    expect(quarantineKey(hash, digest, { ...registry, repository: 'z' })).toBe(key);
    expect(quarantineKey(hash, digest, { ...registry, registry: 'EVIL.example' })).toBe(key);
    expect(quarantineKey(hash, digest, storage)).not.toBe(key);
    expect(quarantineKey(hash, other, registry)).not.toBe(key);
    const bucket = { ...storage, storage: 'https://s.example/other/' };
    expect(quarantineKey(hash, digest, bucket)).not.toBe(quarantineKey(hash, digest, storage));
  });
});

describe('ownWayKey()', () => {
  const blob = { digest, sizeBytes: 1000 };

  it('is its golden value', () => {
    expect(ownWayKey(hash, blob, registry)).toBe(
      'sha256:bbd706945cc1ff0678c6a86bc3f8c3950819a9dc686d9c578cff7a7e5400b71b',
    );
  });

  it('tells digests, sizes and sources apart, and is no quarantine key', () => {
    const key = ownWayKey(hash, blob, registry);
    expect(ownWayKey(hash, blob, { ...registry, repository: 'z' })).toBe(key);
    const others = [
      ownWayKey(hash, { ...blob, digest: other }, registry),
      ownWayKey(hash, { ...blob, sizeBytes: 1001 }, registry),
      ownWayKey(hash, blob, storage),
      quarantineKey(hash, digest, registry),
    ];
    expect(new Set([key, ...others]).size).toBe(5);
  });
});

describe('sourceOf()', () => {
  it('names a registry by its host and a storage by its prefix', () => {
    expect(sourceOf(registry)).toBe('evil.example');
    expect(sourceOf(storage)).toBe('https://s.example/b/');
  });
});
