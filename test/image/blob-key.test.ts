import { describe, expect, it } from 'vitest';
import {
  hasOwnKey,
  isOwnKey,
  opaqueKey,
  ownKeyOf,
  ownWayKey,
  quarantineKey,
  sourceOf,
} from '../../src/image/blob-key.ts';
import { digestOf, parseDigest } from '../../src/image/digest.ts';
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
      'sha256:1f8402d680dd188c27d4f1884a42fc28d6cf196dfd87c48c78796c656d6b6579',
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
      'sha256:bbd706945cc1ff0678c6a86bc3f8c3950819a9dc686d9c5778796c656d6b6579',
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

describe('opaqueKey()', () => {
  const opaque = { path: 'id/uuid', etag: '"e1"', sizeBytes: 1000 };
  const at = { registry: 's.example', repository: '', storage: 'https://s.example/', opaque };

  it('is its golden value', () => {
    expect(opaqueKey(hash, at)).toBe(
      'sha256:7000bee3a75aacbfb8de04bc548f1da79a34459c527f2d2778796c656d6b6579',
    );
  });

  it('tells sources, paths, ETags and sizes apart, however their texts are cut', () => {
    const others = [
      { ...at, storage: 'https://s.example/i' },
      { ...at, storage: 'https://s.example/i', opaque: { ...opaque, path: 'd/uuid' } },
      { ...at, storage: 'http://s.example/' },
      { ...at, opaque: { ...opaque, path: 'id/uuid"e1"', etag: '' } },
      { ...at, opaque: { ...opaque, etag: '"e2"' } },
      { ...at, opaque: { ...opaque, sizeBytes: 1001 } },
      { ...at, opaque: { ...opaque, sizeBytes: 2 ** 40 } },
    ];
    const keys = [at, ...others].map((origin) => opaqueKey(hash, origin));
    expect(new Set(keys).size).toBe(keys.length);
  });

  it('is never the quarantine key of anything that has the same texts', () => {
    expect(opaqueKey(hash, at)).not.toBe(quarantineKey(hash, digest, at));
  });
});

describe('ownKeyOf()', () => {
  const opaque = { path: 'id/uuid', etag: '"e1"', sizeBytes: 1000 };

  it('is the key of a doubtful source, of an opaque blob, and nothing for a digest', () => {
    expect(ownKeyOf(hash, registry)).toBeUndefined();
    expect(ownKeyOf(hash, { ...registry, content: digest })).toBe(
      quarantineKey(hash, digest, registry),
    );
    expect(ownKeyOf(hash, { ...storage, opaque })).toBe(opaqueKey(hash, { ...storage, opaque }));
    // Both at once is nobody's form.
    expect(ownKeyOf(hash, { ...storage, opaque, content: digest })).toBeUndefined();
  });

  it('hasOwnKey() says which', () => {
    expect(
      [registry, { ...registry, content: digest }, { ...storage, opaque }].map(hasOwnKey),
    ).toEqual([false, true, true]);
  });
});

describe('isOwnKey()', () => {
  it('tells both kinds of keys from digests, by their form alone', () => {
    const opaque = { path: 'id/uuid', etag: '"e1"', sizeBytes: 1000 };
    expect(isOwnKey(quarantineKey(hash, digest, registry))).toBe(true);
    expect(isOwnKey(opaqueKey(hash, { ...storage, opaque }))).toBe(true);
    for (let i = 0; i < 1000; i++) {
      expect(isOwnKey(digestOf(hash, new Uint8Array([i, i >> 8])))).toBe(false);
    }
  });
});
