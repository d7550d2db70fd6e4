import { describe, expect, it } from 'vitest';
import type { BlobOrigin } from '../../../src/image/block.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import type { BlobStat } from '../../../src/transfer/contracts/origin.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { BlobOrigins } from '../../../src/transfer/drive/blob-origins.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { DIGEST } from '../../kit/twins.ts';

const APP: BlobOrigin = { registry: 'r.test', repository: 'team/app' };
const EVIL = { ...APP, repository: 'evil' };
const OTHER = { ...APP, repository: 'other' };
const STORAGE = { registry: 's.test', repository: '', storage: 'https://s.test/' };
const BLOB = { digest: DIGEST, sizeBytes: 1000 };

/** A host whose registry has the blob in these repositories, with these sizes. */
function hostWith(
  sizes: Readonly<Record<string, number>>,
  isRoot = true,
): { origins: BlobOrigins; tell: (origin: BlobOrigin) => Promise<unknown>; asked: string[] } {
  const asked: string[] = [];
  const stat = async (_: unknown, { repository }: BlobOrigin): Promise<BlobStat> => {
    asked.push(repository);
    const sizeBytes = sizes[repository];
    if (sizeBytes === undefined) throw new OriginError('no', { code: 'not-found' });
    return { sizeBytes, isPublic: true };
  };
  const believes = ({ registry }: BlobOrigin): boolean => registry !== 'stranger.test';
  const origins = new BlobOrigins(
    { origin: { stat, believes }, hash: new NodeHash(), clock: new ManualClock() },
    { isRoot, stop: new AbortController().signal },
  );
  const tell = async (origin: BlobOrigin): Promise<unknown> => {
    origins.told(BLOB, origin);
    await new Promise(setImmediate);
    return origins.of(DIGEST);
  };
  return { origins, tell, asked };
}

describe('BlobOrigins.told()', () => {
  it('lets no hostile host move a blob that this root found', async () => {
    const { origins, tell, asked } = hostWith({ evil: 1000 });
    origins.found(DIGEST, APP);
    for (const origin of [EVIL, STORAGE, { ...APP, registry: 'stranger.test' }]) {
      expect(await tell(origin)).toBe(APP);
    }
    expect(asked).toEqual([]);
  });

  it('takes a second word for a blob that a hostile host named first, if it is true', async () => {
    const { tell, asked } = hostWith({ 'team/app': 1000, other: 1000, large: 1001 });
    expect(await tell(EVIL)).toBe(EVIL);
    expect(await tell({ ...APP, repository: 'large' })).toBe(EVIL);
    expect(await tell({ ...APP, repository: 'none' })).toBe(EVIL);
    expect(await tell(APP)).toBe(APP);
    expect(await tell(EVIL)).toBe(APP);
    expect(await tell(OTHER)).toBe(APP);
    expect(asked).toEqual(['large', 'none', 'team/app']);
  });

  it('prefers a registry that has the blob to a storage, and to no other registry', async () => {
    const { origins, tell } = hostWith({ 'team/app': 1000 });
    origins.found(DIGEST, STORAGE);
    expect(await tell(EVIL)).toBe(STORAGE);
    expect(await tell(APP)).toBe(APP);
  });

  it('takes the last word on a relay, which reads no registry', async () => {
    const { tell, asked } = hostWith({}, false);
    await tell(EVIL);
    expect(await tell(APP)).toBe(APP);
    expect(asked).toEqual([]);
  });
});

describe('BlobOrigins.found()', () => {
  it('keeps the place in use until the registry says no there', async () => {
    const { origins, tell } = hostWith({ other: 1000 });
    origins.found(DIGEST, APP);
    origins.found(DIGEST, OTHER);
    expect(origins.of(DIGEST)).toBe(APP);
    origins.refused(DIGEST, OTHER);
    expect(await tell(OTHER)).toBe(APP);
    origins.refused(DIGEST, APP);
    expect(await tell(OTHER)).toBe(OTHER);
    origins.refused(DIGEST, OTHER);
    origins.found(DIGEST, APP);
    expect(origins.of(DIGEST)).toBe(APP);
  });
});
