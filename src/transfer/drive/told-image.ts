import { digestOf, type Digest } from '../../image/digest.ts';
import { indexDigests } from '../../image/manifest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { ManifestReply, ResolveReply } from '../../tree/messages.ts';
import type { NamedImage } from '../contracts/origin.ts';
import { PeerError } from '../contracts/transport.ts';

interface Components {
  readonly hash: Pick<Hash, 'sha256'>;
  /** Asks the same peer for an index by its digest. */
  readonly manifest: (digest: Digest) => Promise<ManifestReply>;
}

/**
 * The image that a root or a relay says a reference stands for. Only of a tag its word counts: a
 * digest in the reference has to be that of the manifest, or of an index that lists it, and where
 * the image is, the reference says. Rejects with PeerError, so that the next host is asked.
 */
export async function checkTold(
  { hash, manifest }: Components,
  named: NamedImage,
  told: ResolveReply,
): Promise<ResolveReply> {
  const digest = digestOf(hash, told.manifest);
  const isListed = async (by: Digest): Promise<boolean> => {
    const index = await manifest(by);
    if (index.outcome !== 'found' || digestOf(hash, index.bytes) !== by) return false;
    return indexDigests(index.bytes).includes(digest);
  };
  const isTold = digest === told.manifestDigest;
  const isNamed = named.digest === undefined || named.digest === digest;
  if (!isTold || !(isNamed || (await isListed(named.digest)))) {
    const what = `manifest ${digest}, said to be ${told.manifestDigest}`;
    throw new PeerError(`a root or a relay gave ${what}, for ${named.digest ?? 'a tag'}`, {
      code: 'protocol',
    });
  }
  return { ...told, origin: named.origin };
}
