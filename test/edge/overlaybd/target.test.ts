import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseBlobTarget } from '../../../src/edge/overlaybd/target.ts';

const HEX = 'ab'.repeat(32);
const DIGEST = `sha256:${HEX}`;

describe('parseBlobTarget()', () => {
  it.each([
    [`/dadip2p/https://r.example/v2/team/app/blobs/${DIGEST}`, 'r.example', 'team/app', 'https'],
    [`/dadip2p/https:/r.example/v2/app/blobs/${DIGEST}`, 'r.example', 'app', 'https'],
    [`/dadip2p/http://127.0.0.1:5000/v2/app/blobs/${DIGEST}?ns=x`, '127.0.0.1:5000', 'app', 'http'],
    [`/dadip2p/HTTPS://r.example/v2/app/blobs/${DIGEST}`, 'r.example', 'app', 'https'],
    [
      `/dadip2p/https://s3.example/docker/registry/v2/blobs/sha256/ab/${HEX}/data?X-Sig=a%2Fb%3D`,
      's3.example',
      '',
      'https',
    ],
    [`/dadip2p/https://s3.example/sha256/ab/${HEX}/data`, 's3.example', '', 'https'],
  ])('finds the blob in %s', (target, registry, repository, scheme) => {
    const parsed = parseBlobTarget(target, 'dadip2p');
    expect(parsed).toMatchObject({
      kind: 'blob',
      digest: DIGEST,
      address: { registry, repository, scheme },
    });
  });

  it('keeps the origin URL as it is', () => {
    const url = `https://s3.example/a%20b/sha256/ab/${HEX}/data?sig=%2B%2b+//&u=https://x/sha256:${'0'.repeat(64)}`;
    expect(parseBlobTarget(`/p/${url}`, 'p')).toMatchObject({ digest: DIGEST, address: { url } });
    const tidied = url.replace('https://s3', 'https:/s3');
    expect(parseBlobTarget(`/p/${tidied}`, 'p')).toMatchObject({
      digest: DIGEST,
      address: { url },
    });
  });

  it('accepts the empty prefix', () => {
    const target = `/https://r.example/v2/app/blobs/${DIGEST}`;
    expect(parseBlobTarget(target, '')).toMatchObject({ kind: 'blob' });
    expect(parseBlobTarget(target, 'dadip2p')).toEqual({ kind: 'elsewhere' });
  });

  it.each([
    ['/v2/', 'elsewhere'],
    ['/dadip2pX/https://a/', 'elsewhere'],
    ['/dadip2p', 'elsewhere'],
    ['*', 'elsewhere'],
    ['http://127.0.0.1/dadip2p/https://a/', 'elsewhere'],
    ['/dadip2p/', 'no-url'],
    ['/dadip2p/ftp://a/b', 'no-url'],
    ['/dadip2p/https://', 'no-url'],
    [`/dadip2p/https://u:p@a/v2/x/blobs/${DIGEST}`, 'no-url'],
    [`/dadip2p/https://a/v2/x/blobs/${DIGEST}#f`, 'no-url'],
    [`/dadip2p/https://a/v2/x/blobs/${DIGEST}?${'q'.repeat(9000)}`, 'no-url'],
    ['/dadip2p/https://a', 'no-digest'],
    ['/dadip2p/https://a/v2/x/manifests/latest', 'no-digest'],
    [`/dadip2p/https://a/x?blob=/${DIGEST}`, 'no-digest'],
    [`/dadip2p/https://a/v2/x/blobs/${DIGEST}00`, 'no-digest'],
    [`/dadip2p/https://a/v2/x/blobs/sha256:${HEX.toUpperCase()}`, 'no-digest'],
    [`/dadip2p/https://a/sha256/cd/${HEX}/data`, 'no-digest'],
  ])('takes %.60s for %s', (target, kind) => {
    expect(parseBlobTarget(target, 'dadip2p').kind).toBe(kind);
  });

  it('gives any text one of its kinds, and never throws', () => {
    fc.assert(
      fc.property(fc.string(), fc.constantFrom('', 'p'), (text, prefix) => {
        for (const target of [text, `/p/https://${text}`]) {
          expect(parseBlobTarget(target, prefix)).toHaveProperty('kind');
        }
      }),
    );
  });
});
