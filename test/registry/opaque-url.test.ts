import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { opaqueUrlOf } from '../../src/registry/opaque-url.ts';
import { shapeOf } from '../../src/registry/url-shape.ts';

const HEX = 'ab'.repeat(32);
const SIGNED = [
  'X-Amz-Algorithm=AWS4-HMAC-SHA256',
  'X-Amz-Credential=A%2F20260101%2Feu-west-1',
  'X-Amz-Date=20260101T000000Z',
  'X-Amz-Expires=3600',
  'X-Amz-SignedHeaders=host',
  `X-Amz-Signature=${HEX}`,
].join('&');
const BUCKET = 'https://prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com';
const PATH = '1f05-123456789012-6a1b/0b4c2d44-44f1-9d1a';

describe('opaqueUrlOf()', () => {
  it('takes apart what Amazon ECR redirects to', () => {
    const url = `${BUCKET}/${PATH}?X-Amz-Security-Token=t%2Ft&${SIGNED}`;
    expect(opaqueUrlOf(url)).toEqual({
      url,
      scheme: 'https',
      host: BUCKET.slice('https://'.length),
      storage: `${BUCKET}/`,
      path: PATH,
    });
  });

  it.each([
    [`HTTPS://B.S3.Example:443/${PATH}?${SIGNED}&x-id=GetObject`, 'https://b.s3.example/'],
    [`http://127.0.0.1:80/${PATH}?${SIGNED}`, 'http://127.0.0.1/'],
    [`http://127.0.0.1:9000/${PATH}?${SIGNED}`, 'http://127.0.0.1:9000/'],
    [`https://[::1]:443/${PATH}?${SIGNED}`, 'https://[::1]/'],
  ])('gives one storage one name: %s', (url, storage) => {
    expect(opaqueUrlOf(url)?.storage).toBe(storage);
  });

  it.each([
    ['dot segments', `/a/../${PATH}?${SIGNED}`],
    ['an encoded slash', `/a%2f${PATH}?${SIGNED}`],
    ['any encoding', `/a%41/${PATH}?${SIGNED}`],
    ['an empty segment', `/a//${PATH}?${SIGNED}`],
    ['a folder', `/a/?${SIGNED}`],
    ['no path', `/?${SIGNED}`],
    ['a path longer than a key', `/${'a'.repeat(1025)}?${SIGNED}`],
    ['the API of a registry', `/v2/a/manifests/latest?${SIGNED}`],
    ['a digest', `/docker/registry/v2/blobs/sha256/ab/${HEX}/data?${SIGNED}`],
    ['a digest in another shape', `/layers/${HEX}?${SIGNED}`],
    ['two digests', `/sha256:${HEX}/sha256:${HEX}?${SIGNED}`],
    ['a version', `/${PATH}?versionId=1&${SIGNED}`],
    ['a version in disguise', `/${PATH}?version%49d=1&${SIGNED}`],
    ['a part', `/${PATH}?${SIGNED}&partNumber=2`],
    ['a sub-resource', `/${PATH}?acl&${SIGNED}`],
    ['the snapshot of another cloud', `/${PATH}?snapshot=1&${SIGNED}`],
    ['comp', `/${PATH}?comp=block&${SIGNED}`],
    ['headers that the answer is to have', `/${PATH}?response-content-type=text%2Fhtml&${SIGNED}`],
    ['a parameter twice', `/${PATH}?${SIGNED}&x-amz-date=20250101T000000Z`],
    ['an empty pair', `/${PATH}?${SIGNED}&`],
    ['no signature', `/${PATH}?X-Amz-Credential=A&X-Amz-Date=1`],
    ['a signature of another form', `/${PATH}?${SIGNED.replace(HEX, 'x')}`],
    ['no query', `/${PATH}`],
    ['a fragment', `/${PATH}?${SIGNED}#a`],
    ['a user', `@b.example/${PATH}?${SIGNED}`],
  ])('takes nothing with %s', (_, rest) => {
    expect(opaqueUrlOf(`https://b.example${rest}`)).toBeUndefined();
  });

  it('never takes what names a digest, or what two servers may read in two ways', () => {
    const part = fc.constantFrom('a', '..', '.', HEX, `sha256:${HEX}`, 'sha256', '%2f', '', 'v2');
    fc.assert(
      fc.property(fc.array(part, { maxLength: 6 }), (parts) => {
        const url = `https://b.example/${parts.join('/')}?${SIGNED}`;
        const opaque = opaqueUrlOf(url);
        if (opaque === undefined) return;
        expect(shapeOf(url).kind).toBe('other');
        expect(opaque.path.split('/')).not.toContain(HEX);
        expect(opaque.path).toMatch(/^[a-z0-9]+(\/[a-z0-9]+)*$/);
      }),
    );
  });
});
