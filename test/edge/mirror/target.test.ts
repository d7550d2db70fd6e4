import { describe, expect, it } from 'vitest';
import { parseMirrorTarget } from '../../../src/edge/mirror/target.ts';

const HEX = 'ab'.repeat(32);

describe('parseMirrorTarget()', () => {
  it.each([
    ['/v2', 'ping'],
    ['/v2/', 'ping'],
    ['/v2/?ns=r.example', 'ping'],
    ['/', 'elsewhere'],
    ['/dadip2p/https://r.example/v2/a/blobs/x', 'elsewhere'],
    ['/v2/https://r.example/v2/a/blobs/x', 'elsewhere'],
    ['/v2/HTTP:/r.example/v2/a/blobs/x', 'elsewhere'],
    ['/v2/a/tags/list', 'other'],
    [`/v2/a/referrers/sha256:${HEX}`, 'other'],
    ['/v2/a/blobs/uploads/', 'other'],
    [`/v2/a/blobs/sha512:${HEX}${HEX}`, 'other'],
    ['/v2/manifests/1', 'other'],
    [`/v2/a/manifests/${'1'.repeat(3000)}`, 'other'],
  ])('takes %s as %s', (target, kind) => {
    expect(parseMirrorTarget(target).kind).toBe(kind);
  });

  it('reads the name, the reference and the registry that is meant', () => {
    expect(parseMirrorTarget('/v2/a/b/manifests/1.4?ns=127.0.0.1%3A5000')).toEqual({
      kind: 'manifest',
      repository: 'a/b',
      reference: '1.4',
      namespace: '127.0.0.1:5000',
    });
    // A part of a name may be called as the parts of the API.
    expect(parseMirrorTarget(`/v2/blobs/manifests/blobs/sha256%3A${HEX}`)).toEqual({
      kind: 'blob',
      repository: 'blobs/manifests',
      digest: `sha256:${HEX}`,
      namespace: undefined,
    });
    expect(parseMirrorTarget('/v2/a/manifests/%ff')).toMatchObject({ reference: '' });
  });
});
