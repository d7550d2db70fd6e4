import { describe, expect, it } from 'vitest';
import { INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { candidatesFor, isIndex, selectPlatform } from '../../src/registry/platform.ts';
import type { Platform } from '../../src/registry/platform.ts';
import { digestOf } from '../kit/registry-content.ts';

const AMD = { os: 'linux', architecture: 'amd64' };
const ARM64 = { os: 'linux', architecture: 'arm64' };
const ARM = { os: 'linux', architecture: 'arm', variant: 'v7' };

const bytesOf = (value: object): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
const digestAt = (at: number) => digestOf(new Uint8Array([at]));

function indexOf(...platforms: unknown[]): Uint8Array {
  const manifests = platforms.map((platform, i) => ({ digest: digestAt(i), size: 1, platform }));
  return bytesOf({ schemaVersion: 2, manifests });
}

/** The place of the entry that is chosen. */
function chosen(wanted: Platform, ...platforms: unknown[]): number {
  const digest = selectPlatform(indexOf(...platforms), wanted, 'r.example/app:1');
  return platforms.findIndex((_, i) => digestAt(i) === digest);
}

const none = { os: 'linux', architecture: 's390x' };

describe('selectPlatform()', () => {
  it.each<[Platform, unknown]>([
    [AMD, { os: 'linux', architecture: 'x86_64' }],
    [AMD, { os: 'linux', architecture: 'x86-64', variant: '' }],
    [AMD, { os: 'Linux', architecture: 'AMD64', variant: 'v1' }],
    [AMD, { os: 'linux', architecture: 'amd64', 'os.version': '10', 'os.features': null }],
    [AMD, { architecture: 'amd64' }],
    [AMD, { os: '', architecture: 'amd64', variant: null }],
    [ARM64, { os: 'linux', architecture: 'aarch64' }],
    [ARM64, { os: 'linux', architecture: 'arm64', variant: '8' }],
    [
      { ...ARM64, variant: 'v8' },
      { os: 'linux', architecture: 'arm64' },
    ],
    [ARM, { os: 'linux', architecture: 'armhf' }],
    [ARM, { os: 'linux', architecture: 'arm' }],
    [ARM, { os: 'linux', architecture: 'arm', variant: '7' }],
    [
      { ...ARM, variant: 'v6' },
      { os: 'linux', architecture: 'armel' },
    ],
    [
      { os: 'linux', architecture: '386' },
      { os: 'linux', architecture: 'i386' },
    ],
  ])('takes for %j an entry of %j', (wanted, platform) => {
    expect(chosen(wanted, none, platform)).toBe(1);
  });

  it('takes the best: the variant itself before another one', () => {
    expect(chosen(AMD, { ...AMD, variant: 'v3' }, AMD)).toBe(1);
    expect(chosen(AMD, none, { ...AMD, variant: 'v2' })).toBe(1);
    expect(chosen({ ...ARM64, variant: 'v8' }, { ...ARM64, variant: 'v9' }, ARM64)).toBe(1);
  });

  it('takes an entry without a platform where there is no other', () => {
    for (const platform of [undefined, null, {}, 'linux']) expect(chosen(AMD, platform)).toBe(0);
    expect(() => chosen(AMD, undefined, ARM64)).toThrow('has no image');
  });

  it('says what there is where nothing fits', () => {
    const unknown = { os: 'unknown', architecture: 'unknown' };
    expect(() => chosen(AMD, ARM64, ARM, unknown, undefined)).toThrow(
      'r.example/app:1 has no image for linux/amd64; ' +
        'it has: linux/arm64, linux/arm/v7, unknown/unknown, ?',
    );
    for (const manifests of [null, undefined, []]) {
      const empty = bytesOf({ schemaVersion: 2, manifests });
      expect(() => selectPlatform(empty, AMD, 'x')).toThrow('it has: none at all');
    }
    expect(() => selectPlatform(bytesOf([]), AMD, 'x')).toThrow('is not JSON');
  });
});

describe('candidatesFor() a host', () => {
  const best = (wanted: Platform, ...platforms: unknown[]): unknown =>
    candidatesFor(indexOf(...platforms), wanted, { reference: 'x', isHost: true }).best;

  it('takes what runs there, as containerd does, the best first', () => {
    const [v6, v8] = [
      { ...ARM, variant: 'v6' },
      { ...ARM, variant: 'v8' },
    ];
    const i386 = { os: 'linux', architecture: 'i386' };
    expect(best(AMD, i386, { os: 'linux', architecture: 'x86_64' })).toBe(digestAt(1));
    expect(best(AMD, none, i386)).toBe(digestAt(1));
    expect(best(ARM64, ARM, v8)).toBe(digestAt(1));
    expect(best(ARM, v8, v6)).toBe(digestAt(1));
    expect(best({ ...ARM, variant: 'v6' }, ARM)).toBeUndefined();
  });
});

describe('isIndex()', () => {
  const [manifest, index] = [MANIFEST_MEDIA_TYPES[0], INDEX_MEDIA_TYPES[0]];
  it.each<[boolean, string, object]>([
    [true, index, { manifests: null }],
    [true, 'application/octet-stream', { mediaType: index }],
    [true, '', { manifests: [] }],
    [false, manifest, { layers: [] }],
    [false, index, { mediaType: manifest, layers: [] }],
    [false, 'text/plain', { manifests: null, layers: [] }],
  ])('says %s of %s %j', (is, mediaType, json) => {
    expect(isIndex({ mediaType, bytes: bytesOf(json) })).toBe(is);
  });
});
