import { describe, expect, it } from 'vitest';
import { contentFault, manifestFault, typeWithin } from '../../src/image/manifest-form.ts';
import {
  INDEX_MEDIA_TYPES,
  isForeign,
  MANIFEST_MEDIA_TYPES,
  parseManifest,
} from '../../src/image/manifest.ts';

const [OCI, DOCKER] = MANIFEST_MEDIA_TYPES;
const [INDEX, LIST] = INDEX_MEDIA_TYPES;
const DIGEST = `sha256:${'1'.repeat(64)}`;
const CONFIG = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: DIGEST, size: 2 };

const bytesOf = (value: unknown): Uint8Array =>
  new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));

describe('contentFault()', () => {
  it.each<unknown>([
    '<html>blocked</html>',
    '',
    ' ',
    '{"schemaVersion":2,"layers":[',
    'null',
    '[]',
    '"text"',
    {},
    { errors: [{ code: 'DENIED' }] },
    { schemaVersion: 'two' },
    { layers: null, config: null, manifests: null, mediaType: '' },
  ])('finds that %j is no manifest', (value) => {
    expect(contentFault(bytesOf(value))).toBeTypeOf('string');
    expect(manifestFault(bytesOf(value), OCI)).toBeTypeOf('string');
  });

  it('finds that bytes that are no text are no manifest', () => {
    expect(contentFault(new Uint8Array([0x7b, 0xff, 0x7d]))).toBeTypeOf('string');
  });

  it.each<object>([
    { schemaVersion: 2 },
    { schemaVersion: 2, config: CONFIG, layers: null },
    { mediaType: 'application/vnd.example.thing+json' },
    { manifests: [] },
    { layers: [] },
    { config: CONFIG },
  ])('takes %j', (value) => {
    expect(contentFault(bytesOf(value))).toBeUndefined();
  });
});

describe('manifestFault()', () => {
  it.each<[string, object]>([
    [OCI, { schemaVersion: 2, config: CONFIG, layers: [] }],
    [OCI, { schemaVersion: 2, mediaType: OCI, config: CONFIG, layers: null, manifests: null }],
    // Registries that know one of the two name the other.
    [DOCKER, { schemaVersion: 2, mediaType: OCI, config: CONFIG, layers: [] }],
    [INDEX, { schemaVersion: 2, manifests: null }],
    [LIST, { schemaVersion: 2, mediaType: LIST, manifests: [{}], layers: [], config: {} }],
    ['application/vnd.docker.distribution.manifest.v1+prettyjws', { schemaVersion: 1 }],
    ['text/plain', { schemaVersion: 1, fsLayers: [] }],
    ['application/json', { schemaVersion: 1, fsLayers: [] }],
    ['application/vnd.example.thing.v9+json', { schemaVersion: 2, blobs: [] }],
    [
      'application/vnd.oci.artifact.manifest.v1+json',
      { mediaType: 'application/vnd.oci.artifact.manifest.v1+json' },
    ],
    [OCI.toUpperCase(), { schemaVersion: 2, mediaType: OCI, layers: [] }],
  ])('takes as %s %j', (type, value) => {
    expect(manifestFault(bytesOf(value), type)).toBeUndefined();
  });

  it.each<[string, object]>([
    ['text/html', { schemaVersion: 2, mediaType: OCI, config: CONFIG, layers: [] }],
    ['application/octet-stream', { schemaVersion: 2, mediaType: OCI, layers: [] }],
    ['application/json', { schemaVersion: 2, config: CONFIG, layers: [] }],
    ['text/plain', { schemaVersion: 2, config: CONFIG, layers: [] }],
    ['', { schemaVersion: 2, layers: [] }],
    [OCI, { schemaVersion: 2, mediaType: INDEX, manifests: [] }],
    [INDEX, { schemaVersion: 2, mediaType: OCI, layers: [] }],
    [OCI, { schemaVersion: 2, manifests: [{}] }],
    [LIST, { schemaVersion: 2, config: CONFIG, layers: [{}] }],
    [INDEX, { schemaVersion: 2, mediaType: INDEX, manifests: [{}], layers: [{}] }],
    [OCI, { schemaVersion: 2, mediaType: 'application/vnd.example.thing+json' }],
  ])('refuses as %s %j', (type, value) => {
    expect(manifestFault(bytesOf(value), type)).toBeTypeOf('string');
  });

  it('shows what a server sends in a form that is safe to print', () => {
    const value = bytesOf({ mediaType: 'a\u001b[31m/b' });
    expect(manifestFault(value, 'x/\u001b[0m')).not.toMatch(/[\u0000-\u001f]/);
  });
});

describe('typeWithin()', () => {
  it.each<[string, unknown]>([
    [DOCKER, { mediaType: DOCKER }],
    [INDEX, { manifests: [] }],
    [OCI, { layers: [] }],
    ['', { schemaVersion: 2 }],
    ['', '<html>'],
  ])('says %s', (type, value) => {
    expect(typeWithin(bytesOf(value))).toBe(type);
  });
});

describe('parseManifest()', () => {
  it.each([{ layers: null }, {}, { layers: [], annotations: null }])(
    'reads what encoders of Go leave: %j',
    (rest) => {
      const config = { ...CONFIG, annotations: null, urls: null };
      const manifest = parseManifest(bytesOf({ schemaVersion: 2, config, ...rest }));
      expect(manifest).toMatchObject({ layers: [], annotations: {} });
      expect(manifest.config).toEqual({ ...CONFIG, annotations: {} });
    },
  );

  it('knows layers that the registry need not have', () => {
    const [docker, oci, plain] = [
      'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
      'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
      'application/vnd.oci.image.layer.v1.tar+gzip',
    ];
    const layers = [
      { ...CONFIG, mediaType: docker },
      { ...CONFIG, mediaType: oci, urls: [] },
      { ...CONFIG, mediaType: plain, urls: ['https://elsewhere.example/layer'] },
      { ...CONFIG, mediaType: plain, urls: null },
    ];
    const parsed = parseManifest(bytesOf({ schemaVersion: 2, config: CONFIG, layers }));
    expect(parsed.layers.map(isForeign)).toEqual([true, true, true, false]);
  });
});
