import { describe, expect, it } from 'vitest';
import { encodeList, listedFor } from '../../../src/edge/mirror/block-image-list.ts';
import { BlockImages } from '../../../src/edge/mirror/block-images.ts';
import { BlobError } from '../../../src/edge/http/blob-error.ts';
import type { KeptManifest } from '../../../src/edge/mirror/manifest-cache.ts';
import {
  BLOCK_IMAGE_ARTIFACT_TYPE,
  INDEX_MEDIA_TYPES,
  MANIFEST_MEDIA_TYPES,
} from '../../../src/image/manifest.ts';
import { hostPlatform } from '../../../src/registry/platform.ts';
import type { Referrer } from '../../../src/registry/referrers.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { digestOf } from '../../kit/registry-content.ts';

const ORIGIN = { registry: 'r.example', repository: 'a/b' };
const { signal } = new AbortController();
const ORIGINAL = keep({ layers: [] });
const OTHER = keep({ layers: [1] });

function keep(json: object, mediaType: string = MANIFEST_MEDIA_TYPES[0]): KeptManifest {
  const bytes = Buffer.from(JSON.stringify(json));
  return { digest: digestOf(bytes), mediaType, bytes };
}

function blockImageOf(subject: KeptManifest, note = ''): KeptManifest {
  const { digest } = subject;
  return keep({ artifactType: BLOCK_IMAGE_ARTIFACT_TYPE, subject: { digest }, note });
}

function entryOf({ mediaType, digest, bytes }: KeptManifest): Referrer {
  return { mediaType, digest, size: bytes.length, artifactType: BLOCK_IMAGE_ARTIFACT_TYPE };
}

/** Manifests, and for each subject what its list has. */
function hostWith(lists: ReadonlyMap<KeptManifest, readonly KeptManifest[]>) {
  const clock = new ManualClock();
  const world = { clock, asked: [] as string[], fault: undefined as Promise<never> | undefined };
  const all = [...lists.values()].flat();
  const get = async (_: object, reference: string): Promise<KeptManifest> => {
    world.asked.push(reference);
    await world.fault;
    const of = listedFor(reference);
    if (of !== undefined) {
      const listed = [...lists].find(([{ digest }]) => digest === of)?.[1] ?? [];
      const list = encodeList(listed.map(entryOf));
      return { ...list, digest: digestOf(list.bytes) };
    }
    const found = all.find(({ digest }) => digest === reference);
    if (found !== undefined) return found;
    throw new BlobError('not there', { code: 'not-found' });
  };
  const parts = { manifests: { get }, clock, logger: silentLogger, metrics: silentMetrics };
  const images = new BlockImages(parts);
  return { world, find: (original: KeptManifest) => images.find(ORIGIN, original, signal) };
}

describe('BlockImages', () => {
  it('finds the block image that was listed last, by way of the list', async () => {
    const [first, last] = [blockImageOf(ORIGINAL, 'lz4'), blockImageOf(ORIGINAL, 'zstd')];
    const { find } = hostWith(new Map([[ORIGINAL, [first, last]]]));
    expect(await find(ORIGINAL)).toBe(last);
    expect(await find(OTHER)).toBeUndefined();
  });

  it('finds that of the manifest for this host of an index', async () => {
    const { os, architecture } = hostPlatform();
    const { digest } = ORIGINAL;
    const index = keep(
      {
        manifests: [
          { digest: OTHER.digest, platform: { os, architecture: 'none' } },
          { digest, platform: { os, architecture } },
        ],
      },
      INDEX_MEDIA_TYPES[0],
    );
    const [wanted, other] = [blockImageOf(ORIGINAL), blockImageOf(OTHER)];
    const lists = new Map([
      [ORIGINAL, [wanted]],
      [OTHER, [other]],
    ]);
    expect(await hostWith(lists).find(index)).toBe(wanted);
    const platform = { os, architecture: 'none' };
    const foreign = keep({ manifests: [{ digest, platform }] }, INDEX_MEDIA_TYPES[0]);
    expect(await hostWith(lists).find(foreign)).toBeUndefined();
  });

  it('believes no list that names the block image of another one, or something else', async () => {
    const wrong = [blockImageOf(OTHER), keep({ subject: { digest: ORIGINAL.digest } })];
    for (const each of [...wrong, keep({ artifactType: BLOCK_IMAGE_ARTIFACT_TYPE })]) {
      expect(await hostWith(new Map([[ORIGINAL, [each]]])).find(ORIGINAL)).toBeUndefined();
    }
  });

  it('finds none when it is refused', async () => {
    const { world, find } = hostWith(new Map([[ORIGINAL, [blockImageOf(ORIGINAL)]]]));
    world.fault = Promise.reject(new BlobError('away', { code: 'unavailable' }));
    expect(await find(ORIGINAL)).toBeUndefined();
  });
});
