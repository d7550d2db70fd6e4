import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { shapeOf } from '../../src/registry/url-shape.ts';

const HEX = `ab${'0123456789abcdef'.repeat(4).slice(2)}`;
const OTHER = `cd${'f'.repeat(62)}`;
const DIGEST = `sha256:${HEX}`;
const FOLDERS = `sha256/ab/${HEX}`;

/** What blob-key.ts makes has this form. */
const KEY = `${'ab'.repeat(24)}78796c656d6b6579`;

describe('shapeOf()', () => {
  it.each([
    ['Distribution on S3', `https://b.s3.example/docker/registry/v2/blobs/${FOLDERS}/data?X-Amz=1`],
    ['a prefix in the bucket', `https://b.s3.example/x/y/docker/registry/v2/blobs/${FOLDERS}/data`],
    ['Azure', `https://x.blob.example/id//docker/registry/v2/blobs/${FOLDERS}/data?sig=a%2Fb`],
    ['GitHub', `https://pkg.example/ghcr1/blobs/${DIGEST}?se=2026`],
    ['Quay', `https://cdn.example/quayio-production-s3/${FOLDERS}?Signature=x`],
    ['older Google', `https://storage.example/bucket/containers/images/${DIGEST}?token=x`],
  ])('finds the blob in the storage URL of %s', (_, url) => {
    const shape = shapeOf(url);
    expect(shape).toMatchObject({ kind: 'storage', digest: DIGEST, url });
    if (shape.kind !== 'storage') return;
    expect(url.startsWith(shape.prefix)).toBe(true);
    expect(shape.prefix.endsWith('/')).toBe(true);
    expect(shape.prefix).not.toContain('sha256');
  });

  it('finds host, repository and digest in a registry URL, also with one slash', () => {
    const wanted = {
      kind: 'registry',
      host: 'r.example:5000',
      repository: 'team/app',
      scheme: 'https',
    };
    for (const slashes of ['//', '/']) {
      const url = `https:${slashes}r.example:5000/v2/team/app/blobs/${DIGEST}`;
      expect(shapeOf(url)).toMatchObject({ ...wanted, digest: DIGEST });
    }
  });

  it.each([
    ['a path behind the digest', `https://r.example/v2/a/blobs/${DIGEST}/x`],
    ['a slash behind the digest', `https://r.example/v2/a/blobs/${DIGEST}/`],
    ['an empty segment of a name', `https://r.example/v2/a//b/blobs/${DIGEST}`],
    ['no name', `https://r.example/v2//blobs/${DIGEST}`],
    ['a name that is none', `https://r.example/v2/A/blobs/${DIGEST}`],
    ['a web page of a registry', `https://r.example/portal/${DIGEST}/view`],
    ['manifests', `https://r.example/v2/a/manifests/${DIGEST}`],
    ['the wrong folder', `https://s.example/sha256/cd/${HEX}/data`],
    ['a folder behind data', `https://s.example/${FOLDERS}/data/x`],
    ['another name than data', `https://s.example/${FOLDERS}/link`],
    ['two digests', `https://s.example/${OTHER}/${FOLDERS}/data`],
    ['two digests with names', `https://s.example/sha256:${OTHER}/${DIGEST}`],
    ['upper case', `https://s.example/sha256/AB/${HEX.toUpperCase()}/data`],
    ['too long a digest', `https://s.example/${DIGEST}0`],
    ['a digest in the query alone', `https://s.example/x?${DIGEST}`],
    ['a version of an object', `https://s.example/${FOLDERS}/data?versionId=3`],
    ['a key, which is no digest', `https://r.example/v2/a/blobs/sha256:${KEY}`],
    ['a key at a storage', `https://s.example/sha256/ab/${KEY}/data`],
    ['a version in disguise', `https://s.example/${FOLDERS}/data?sig=1&version%49d=3`],
    ['a part of an object', `https://s.example/${FOLDERS}/data?sig=x&partNumber=1`],
    ['a block list', `https://s.example/${FOLDERS}/data?comp=blocklist`],
    ['a snapshot', `https://s.example/${FOLDERS}/data?SNAPSHOT=2026`],
    ['storage below /v2/', `https://s.example/v2/${FOLDERS}/data`],
  ])('takes %s for no blob', (_, url) => {
    expect(shapeOf(url)).toMatchObject({ kind: 'other', url });
  });

  it.each([
    `https://r.example/v2/a/blobs/${DIGEST}/../sha256:${OTHER}`,
    `https://r.example/v2/a/./blobs/${DIGEST}`,
    `https://r.example/v2/a/%2e%2e/b/blobs/${DIGEST}`,
    `https://r.example/v2/a%2Fb/blobs/${DIGEST}`,
    `https://r.example/v2/a%5cb/blobs/${DIGEST}`,
    `https://r.example/v2/a%252e/blobs/${DIGEST}`,
    `https://r.example/v2/a\\b/blobs/${DIGEST}`,
    `https://r.example/v2/a%00/blobs/${DIGEST}`,
    `https://s.example/..`,
  ])('refuses %s as ambiguous', (url) => {
    expect(shapeOf(url)).toMatchObject({ kind: 'refused', fault: 'ambiguous' });
  });

  it.each([
    '',
    'ftp://a/b',
    'https://',
    `https://u:p@a/${DIGEST}`,
    `https://a/${DIGEST}#f`,
    'https://a:0/',
  ])('refuses %s as no URL', (url) => {
    expect(shapeOf(url)).toMatchObject({ kind: 'refused', fault: 'not-a-url' });
  });

  it('names one digest that stands in the path, whatever it is given', () => {
    const piece = fc.constantFrom(
      '/',
      'v2',
      'blobs',
      DIGEST,
      FOLDERS,
      'data',
      '..',
      '%2e',
      OTHER,
      '?',
      'a',
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const shape = shapeOf(`https://h.example/${pieces.join('')}`);
        if (shape.kind !== 'registry' && shape.kind !== 'storage') return;
        const [path = ''] = shape.url.split('?');
        expect(path).toContain(HEX);
        expect(path).not.toContain(OTHER);
        expect(path).not.toContain('..');
      }),
    );
  });
});
