import { expect, onTestFinished, test } from 'vitest';
import { BLOCK_IMAGE_ARTIFACT_TYPE } from '../../src/image/manifest.ts';
import { referrersOfType, referrersTag } from '../../src/registry/referrers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { PushRegistry, type PushHabits } from '../kit/push-registry.ts';
import { makeAccess } from './kit/origins.ts';

const MEDIA_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const SUBJECT = digestOf(Buffer.from('the original'));

async function startRegistry(habits: PushHabits): Promise<PushRegistry> {
  const registry = new PushRegistry(habits);
  await registry.start();
  onTestFinished(() => registry.stop());
  return registry;
}

function referrer(artifactType: string, note: number) {
  const subject = { mediaType: MEDIA_TYPE, digest: SUBJECT, size: 1 };
  return Buffer.from(JSON.stringify({ artifactType, subject, note }));
}

test.each([{ listsReferrers: true, pageEntries: 2 }, { listsReferrers: false }])(
  'block images are found among the referrers of their original, at a registry that %j',
  async (habits) => {
    const registry = await startRegistry(habits);
    const types = [BLOCK_IMAGE_ARTIFACT_TYPE, 'example/signature', BLOCK_IMAGE_ARTIFACT_TYPE];
    const manifests = types.map((type, i) => referrer(type, i));
    const access = makeAccess({ host: registry.address, insecure: true });
    const client = await access.client();
    const origin = { registry: registry.address, repository: 'team/app' };
    const find = () => access.origin.blockImages(origin, SUBJECT, {});
    expect(await find()).toEqual([]);
    for (const bytes of manifests) {
      await client.pushManifest({ origin }, { mediaType: MEDIA_TYPE, bytes });
    }
    if (!habits.listsReferrers) {
      const entries = manifests.map((bytes, i) => ({
        ...{ mediaType: MEDIA_TYPE, digest: digestOf(bytes), size: bytes.length },
        artifactType: types[i],
      }));
      const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: entries }));
      const tag = referrersTag(SUBJECT);
      const mediaType = 'application/vnd.oci.image.index.v1+json';
      await client.pushManifest({ origin, tag }, { mediaType, bytes });
    }
    const [first, , last] = manifests.map((bytes) => digestOf(bytes));
    expect((await find()).map(({ digest }) => digest)).toEqual([first, last]);
  },
);

test('referrersOfType() leaves out what is no sound entry', () => {
  const digest = digestOf(Buffer.from('x'));
  const good = { mediaType: MEDIA_TYPE, digest, size: 1, artifactType: 'a' };
  const odd = [
    ...[null, 1, {}, { ...good, digest: 'sha256:12' }, { ...good, size: -1 }],
    ...[
      { ...good, size: '1' },
      { ...good, mediaType: 1 },
      { ...good, artifactType: 'b' },
    ],
  ];
  const page = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
  expect(referrersOfType([page({ manifests: [...odd, good] })], 'a')).toEqual([good]);
  for (const value of [null, [], { manifests: 7 }]) {
    expect(referrersOfType([page(value)], 'a')).toEqual([]);
  }
  expect(referrersOfType([Buffer.from('<html>')], 'a')).toEqual([]);
  const many = Array.from({ length: 100 }, (_, i) => ({ ...good, size: i + 1 }));
  expect(referrersOfType([page({ manifests: many })], 'a')).toHaveLength(64);
});
