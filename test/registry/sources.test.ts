import { describe, expect, it } from 'vitest';
import {
  BelievedSources,
  configurationLine,
  DEFAULT_SOURCES,
  isPublicHttps,
  storagePrefixFault,
} from '../../src/registry/sources.ts';
import { shapeOf } from '../../src/registry/url-shape.ts';

const DIGEST = `sha256:${'ab'.repeat(32)}`;
const FOLDERS = `sha256/ab/${'ab'.repeat(32)}/data`;

const believed = new BelievedSources({
  registries: [
    { host: 'r.example', storage: ['https://b.s3.example/docker/', 'https://*.cdn.example.com/'] },
    { host: '127.0.0.1:5000', insecure: true, storage: ['http://127.0.0.1:9000/bucket/'] },
  ],
  defaults: false,
});

describe('BelievedSources', () => {
  it.each([
    `https://r.example/v2/a/blobs/${DIGEST}`,
    `https://R.Example/v2/a/blobs/${DIGEST}`,
    `http://127.0.0.1:5000/v2/a/blobs/${DIGEST}`,
    `https://b.s3.example/docker/registry/${FOLDERS}?sig=1`,
    `https://b.s3.example:443/docker/${FOLDERS}`,
    `https://x.cdn.example.com/${FOLDERS}`,
    `http://127.0.0.1:9000/bucket/deep/${FOLDERS}`,
  ])('believes %s', (url) => {
    expect(believed.believes(shapeOf(url))).toBe(true);
  });

  it.each([
    `http://r.example/v2/a/blobs/${DIGEST}`,
    `https://r.example:5000/v2/a/blobs/${DIGEST}`,
    `https://evil.example/v2/a/blobs/${DIGEST}`,
    `https://r.example.evil.example/v2/a/blobs/${DIGEST}`,
    `https://r.example/${FOLDERS}`,
    `https://b.s3.example/dockerx/${FOLDERS}`,
    `https://b.s3.example/${FOLDERS}`,
    `http://b.s3.example/docker/${FOLDERS}`,
    `https://b.s3.example:444/docker/${FOLDERS}`,
    `https://a.b.cdn.example.com/${FOLDERS}`,
    `https://cdn.example.com/${FOLDERS}`,
    `https://docker.io/v2/library/a/blobs/${DIGEST}`,
  ])('does not believe %s', (url) => {
    expect(believed.believes(shapeOf(url))).toBe(false);
  });

  it('believes the default registries and their storages unless they are dropped', () => {
    const usual = new BelievedSources({ registries: [], defaults: true });
    expect(usual.isRegistry('registry-1.docker.io')).toBe(true);
    const url = `https://pkg-containers.githubusercontent.com/ghcr1/blobs/${DIGEST}?se=1`;
    expect(usual.believes(shapeOf(url))).toBe(true);
    expect(usual.believes(shapeOf(`https://storage.googleapis.com/mine/${FOLDERS}`))).toBe(false);
  });

  it('DEFAULT_SOURCES keep the rule for storage prefixes', () => {
    for (const { storage = [] } of DEFAULT_SOURCES) {
      for (const prefix of storage) expect(storagePrefixFault(prefix), prefix).toBeUndefined();
    }
  });
});

describe('BelievedSources.believesOpaque()', () => {
  const bucket = (region: string, at = region, tail = 'amazonaws.com'): string =>
    `https://prod-${region}-starport-layer-bucket.s3.${at}.${tail}/`;
  const usual = new BelievedSources({ registries: [], defaults: true });
  const path = 'id/uuid';

  it.each([
    bucket('eu-west-1'),
    bucket('us-gov-east-1'),
    bucket('ap-southeast-5'),
    bucket('cn-north-1', 'cn-north-1', 'amazonaws.com.cn'),
    bucket('eu-west-1').replace('.s3.', '.s3.dualstack.'),
  ])('is so by default of %s, the bucket of ECR', (storage) => {
    expect(usual.believesOpaque({ storage, path })).toBe(true);
    const opaque = { path, etag: '"e"', sizeBytes: 1 };
    const origin = { registry: 'x', repository: '', storage };
    expect(usual.believesOrigin({ ...origin, opaque })).toBe(true);
    // What it sends is believed of nothing that has a digest.
    expect(usual.believesOrigin(origin)).toBe(false);
    const none = new BelievedSources({ registries: [], defaults: false });
    expect(none.believesOpaque({ storage, path })).toBe(false);
  });

  it.each([
    bucket('eu-west-1', 'us-east-1'),
    bucket('evil', 'evil'),
    bucket('eu-west-1').replace('prod-', 'x-prod-'),
    bucket('eu-west-1').replace('-bucket', '-bucket-2'),
    bucket('eu-west-1').replace('https', 'http'),
    bucket('eu-west-1').replace('.com/', '.com.evil.example/'),
    bucket('eu-west-1').replace('.com/', '.com:8443/'),
    bucket('eu-west-1').replace('amazonaws', 'amazonavvs'),
    'https://s3.eu-west-1.amazonaws.com/',
  ])('is not so of %s', (storage) => {
    expect(usual.believesOpaque({ storage, path })).toBe(false);
  });

  it('is so of what the configuration names, by scheme, host, port and path', () => {
    const named = new BelievedSources({
      registries: [
        { host: 'r.example', opaqueStorage: ['https://b.s3.example/layers/'] },
        { host: 's.example', storage: ['https://digests.s3.example/'] },
      ],
      defaults: false,
    });
    const storage = 'https://b.s3.example/';
    expect(named.believesOpaque({ storage, path: 'layers/id' })).toBe(true);
    expect(named.believesOpaque({ storage, path: 'layersx/id' })).toBe(false);
    expect(named.believesOpaque({ storage: 'http://b.s3.example/', path: 'layers/id' })).toBe(
      false,
    );
    expect(named.believesOpaque({ storage: 'https://b.s3.example:444/', path: 'layers/id' })).toBe(
      false,
    );
    expect(named.believesOpaque({ storage: 'https://digests.s3.example/', path: 'id' })).toBe(
      false,
    );
    expect(named.believesStorage('https://b.s3.example/layers/')).toBe(false);
  });
});

describe('storagePrefixFault()', () => {
  it.each([
    'https://bucket.s3.amazonaws.com/',
    'https://s3.eu-central-1.amazonaws.com/bucket/',
    'https://d111.cloudfront.net/',
    'https://*.data.mcr.microsoft.com/',
    'http://minio.local:9000/bucket/',
    'https://[::1]:9000/bucket/',
    'https://bucket.oss-cn-hangzhou.aliyuncs.com/',
  ])('accepts %s', (prefix) => {
    expect(storagePrefixFault(prefix)).toBeUndefined();
  });

  it.each([
    'https://*/',
    'https://*.com/',
    'https://*.co.uk/',
    'https://*.cloudfront.net/',
    'https://*.s3.amazonaws.com/',
    'https://*.blob.core.windows.net/',
    'https://x.*.amazonaws.com/',
    'https://a*.example.com/',
    'https://s3.amazonaws.com/',
    'https://s3.eu-central-1.amazonaws.com/',
    'https://storage.googleapis.com',
    'https://b.example/docker',
    'https://b.example/a/../b/',
    'https://b.example/a%2f/',
    'https://u@b.example/',
    'https://b.example/?x',
    's3://bucket/',
  ])('refuses %s', (prefix) => {
    expect(storagePrefixFault(prefix)).toBeTypeOf('string');
  });
});

describe('configurationLine()', () => {
  it('names what to add', () => {
    expect(configurationLine(shapeOf(`https://r.example/v2/a/blobs/${DIGEST}`))).toBe(
      'registries: [{host: "r.example"}]',
    );
    expect(configurationLine(shapeOf(`https://s.example/b/${FOLDERS}?secret=1`))).toBe(
      'registries[].storage: ["https://s.example/b/"]',
    );
  });
});

describe('isPublicHttps()', () => {
  it.each(['r.example.com', 'r.example.com:443', '8.8.8.8', '[2606:4700::1111]:443'])(
    'lets roots read %s',
    (host) => {
      expect(isPublicHttps(host)).toBe(true);
    },
  );

  it.each([
    'r.example.com:5000',
    'localhost',
    'registry',
    'registry.kube-system.svc.cluster.local',
    'metadata.google.internal',
    '127.0.0.1',
    '169.254.169.254',
    '[::1]',
    '10.0.0.1:443',
  ])('does not let roots read %s', (host) => {
    expect(isPublicHttps(host)).toBe(false);
  });
});
