import { describe, expect, it } from 'vitest';
import { BlobRoots } from '../../../src/edge/access/blob-roots.ts';
import type { BlobAuthority } from '../../../src/edge/access/authority.ts';
import { opaqueKey, quarantineKey } from '../../../src/image/blob-key.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { signNotice, type SignedClaim } from '../../../src/image/signed-claim.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import type { AgentRole, OpenReply } from '../../../src/tree/messages.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { digestOf } from '../../tree/kit/messages.ts';

const DIGEST = digestOf(1);
const ROOT = { peer: peerId('root'), addresses: [], basis: 'id' } as const;
const ORIGIN = { registry: 'r.io', repository: 'a' };
const OPEN: OpenReply = {
  outcome: 'open',
  key: DIGEST,
  sizeBytes: 1000,
  isPublic: true,
  isBelieved: true,
};
const signer = ed25519Signer(new Uint8Array(32).fill(7));
const hash = new NodeHash();
const notice = signNotice({ hash, signer }, DIGEST);

/** A host that hears `reply` from the root, or, as a root, from its own authority. */
function host(role: AgentRole, reply: OpenReply): { roots: BlobRoots; taken: unknown[] } {
  const taken: unknown[] = [];
  const notices = {
    noticeOf: (digest: Digest) => (digest === DIGEST ? notice : undefined),
    takeNotice: (...word: [Digest, SignedClaim]) => void taken.push(word),
  };
  const answer = (): Promise<never> => Promise.resolve(reply as never);
  const authority = role === 'root' ? ({ open: answer } as unknown as BlobAuthority) : undefined;
  const clock = new ManualClock();
  const parts = { transport: { call: answer }, clock, hash, notices, authority };
  const roots = new BlobRoots(parts, { self: peerId('self'), role });
  roots.setUpstreams({ roots: [ROOT], relays: [] });
  return { roots, taken };
}

const request = { digest: DIGEST, origin: ORIGIN };
const never = new AbortController().signal;

describe('BlobRoots', () => {
  it('BlobRoots.answer() gives the notice of a distrusted blob with what opens it', async () => {
    const { roots } = host('root', OPEN);
    expect(await roots.answer(peerId('child'), request)).toEqual({ ...OPEN, notice });
    const other = host('root', { ...OPEN, key: digestOf(2) });
    expect(await other.roots.answer(peerId('child'), request)).not.toHaveProperty('notice');
    const refused = host('root', { outcome: 'no-way', isBelieved: true });
    expect(await refused.roots.answer(peerId('child'), request)).not.toHaveProperty('notice');
  });

  it('BlobRoots.ask() takes in the notice that came with an answer', async () => {
    const { roots, taken } = host('child', { ...OPEN, notice });
    await roots.ask(ROOT.peer, request, never);
    expect(taken).toEqual([[DIGEST, notice]]);
    const without = host('child', OPEN);
    await without.roots.ask(ROOT.peer, request, never);
    expect(without.taken).toEqual([]);
  });

  it('BlobRoots.ask() has no other blob read by the word of a hostile relay', async () => {
    const ask = (reply: OpenReply) => host('child', reply).roots.ask(ROOT.peer, request, never);
    const own = { ...OPEN, key: quarantineKey(hash, DIGEST, ORIGIN) };
    expect(await ask(own)).toEqual(own);
    const elsewhere = quarantineKey(hash, DIGEST, { ...ORIGIN, registry: 'evil.io' });
    const other = quarantineKey(hash, digestOf(2), ORIGIN);
    for (const key of [digestOf(2), elsewhere, other]) {
      await expect(ask({ ...OPEN, key })).rejects.toMatchObject({ code: 'protocol' });
    }
  });

  it('BlobRoots.ask() has an opaque blob read by no key but that of its name', async () => {
    const opaque = { path: 'a', etag: '"1"', sizeBytes: 1000 };
    const origin = { ...ORIGIN, storage: 'https://s.io/', opaque };
    const digest = opaqueKey(hash, origin);
    const ask = (key: Digest) =>
      host('child', { ...OPEN, key }).roots.ask(ROOT.peer, { digest, origin }, never);
    expect(await ask(digest)).toMatchObject({ key: digest });
    for (const key of [DIGEST, quarantineKey(hash, digest, origin)]) {
      await expect(ask(key)).rejects.toMatchObject({ code: 'protocol' });
    }
  });

  it('BlobRoots.answer() of a relay takes in the notice and passes it on', async () => {
    const { roots, taken } = host('relay', { ...OPEN, notice });
    expect(await roots.answer(peerId('child'), request)).toEqual({ ...OPEN, notice });
    expect(taken).toEqual([[DIGEST, notice]]);
  });
});
