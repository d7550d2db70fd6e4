import { describe, expect, it } from 'vitest';
import { digestOf, type Digest } from '../../../src/image/digest.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { checkTold } from '../../../src/transfer/drive/told-image.ts';
import type { ManifestReply, ResolveReply } from '../../../src/tree/messages.ts';

const ORIGIN = { registry: 'r.test', repository: 'team/app' };
const hash = new NodeHash();
const bytes = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
const digest = (of: Uint8Array): Digest => digestOf(hash, of);

const image = bytes({ layers: ['right'] });
const evil = bytes({ layers: ['evil'] });
const index = bytes({ manifests: [{ digest: digest(image) }] });
const forged = bytes({ manifests: [{ digest: digest(evil) }] });

function told(manifest: Uint8Array, said = digest(manifest)): ResolveReply {
  return { manifestDigest: said, manifest, origin: ORIGIN };
}

/** What a peer that gives these bytes for an index says of the image that the reference names. */
function check(pinned: Digest | undefined, reply: ResolveReply, given = index): Promise<unknown> {
  const found = { digest: digest(given), mediaType: 'index', bytes: given, ageMs: 0 };
  const manifest = async (): Promise<ManifestReply> => ({ outcome: 'found', ...found });
  return checkTold({ hash, manifest }, { origin: ORIGIN, digest: pinned }, reply);
}

const REFUSED = { code: 'protocol' };

describe('checkTold()', () => {
  it('takes the manifest whose digest the reference has, or one that its index lists', async () => {
    expect(await check(digest(image), told(image))).toEqual(told(image));
    expect(await check(digest(index), told(image))).toEqual(told(image));
  });

  it('takes no other image of a hostile root or relay for a digest', async () => {
    for (const pinned of [digest(image), digest(index)]) {
      await expect(check(pinned, told(evil))).rejects.toMatchObject(REFUSED);
      await expect(check(pinned, told(evil, pinned))).rejects.toMatchObject(REFUSED);
      await expect(check(pinned, told(evil), forged)).rejects.toMatchObject(REFUSED);
    }
    const noIndex = bytes({ manifests: digest(evil) });
    await expect(check(digest(noIndex), told(evil), noIndex)).rejects.toMatchObject(REFUSED);
  });

  it('believes the word on a tag, and no bytes of another digest', async () => {
    expect(await check(undefined, told(image))).toEqual(told(image));
    const wrong = told(evil, digest(image));
    await expect(check(undefined, wrong)).rejects.toMatchObject(REFUSED);
  });

  it('reads the image where the reference says, wherever a hostile relay says it is', async () => {
    const elsewhere = { ...told(image), origin: { registry: 'evil.test', repository: 'x' } };
    for (const pinned of [digest(image), digest(index), undefined]) {
      expect(await check(pinned, elsewhere)).toEqual(told(image));
    }
  });
});
