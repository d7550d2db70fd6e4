import { stripeCount, type BlobOrigin, type BlobRef } from '../../image/block.ts';
import { quarantineKey } from '../../image/blob-key.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import { within } from '../../runtime/deadline.ts';
import type { Caller, TreeCalls } from '../../transfer/contracts/calls.ts';
import { PeerError } from '../../transfer/contracts/transport.ts';
import type { WrongContent } from '../../transfer/drive/wrong-content.ts';
import type { AgentRole, HostAddress, OpenReply, OpenRequest } from '../../tree/messages.ts';
import { RootRing } from '../../tree/rendezvous.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { BlobAuthority } from './authority.ts';

/**
 * Longest wait for the owners of other stripes to take a lent URL; until then the
 * host reads their blocks by its own way.
 */
const LEND_MS_MAX = 1_000;

/** How long a relay waits for a root before it says that no root answered. */
const RELAY_MS_MAX = 10_000;

interface Components {
  readonly transport: Caller<TreeCalls>;
  readonly clock: Clock;
  readonly hash: Pick<Hash, 'sha256'>;
  /** Roots' words on distrusted blobs: this root's own, and those that come with answers. */
  readonly notices: Pick<WrongContent, 'noticeOf' | 'takeNotice'>;
  /** On a root. */
  readonly authority: BlobAuthority | undefined;
}

/** A root, and how this host knows it: see `FoundRoot`. */
interface KnownRoot extends HostAddress {
  readonly basis: 'id' | 'certificate' | 'address';
}

interface Upstreams {
  readonly roots: readonly KnownRoot[];
  readonly relays: readonly HostAddress[];
}

/** Whom this host asks about blobs, and what it answers when it is asked. */
export class BlobRoots {
  readonly #parts: Components;
  readonly #self: PeerId;
  readonly #role: AgentRole;
  /** Roots that are known by id or certificate: a client's signed URL is lent to these alone. */
  #known: ReadonlySet<PeerId> = new Set();
  #upstreams: Upstreams = { roots: [], relays: [] };
  #ring = new RootRing([]);

  constructor(
    components: Components,
    init: {
      readonly self: PeerId;
      readonly role: AgentRole;
    },
  ) {
    this.#parts = components;
    this.#self = init.self;
    this.#role = init.role;
  }

  setUpstreams(upstreams: Upstreams): void {
    this.#upstreams = upstreams;
    const { roots } = upstreams;
    this.#ring = new RootRing(roots.map(({ peer }) => peer));
    const known = roots.filter(({ basis }) => basis !== 'address');
    this.#known = new Set(known.map(({ peer }) => peer));
  }

  /**
   * Whom to ask about a blob, the owner of its first stripe first; a root asks itself alone. Relays
   * only know what roots read by themselves.
   */
  order(digest: Digest, origin: BlobOrigin): readonly PeerId[] {
    if (this.#role === 'root') return [this.#self];
    const roots = this.#ring.order(digest, 0);
    const { relays } = this.#upstreams;
    if (origin.storage !== undefined || this.#role === 'relay') return roots;
    return [...relays.map(({ peer }) => peer), ...roots];
  }

  /** What is known of the blob proved wrong; see `BlobAuthority.forget()`. */
  forget(key: Digest): void {
    this.#parts.authority?.forget(key);
  }

  /** Rejects with any error when there is no answer. */
  async ask(root: PeerId, request: OpenRequest, signal: AbortSignal): Promise<OpenReply> {
    const { authority, transport, notices } = this.#parts;
    if (root === this.#self && authority !== undefined) return authority.open(request, undefined);
    const { roots, relays } = this.#upstreams;
    const host = [...roots, ...relays].find(({ peer }) => peer === root);
    if (host === undefined) throw new Error(`${root} is no root any more`);
    const reply = await transport.call(host, 'open-blob', request, signal);
    this.#checkKey(request, reply);
    if (reply.outcome === 'open' && reply.notice !== undefined) {
      notices.takeNotice(reply.key, reply.notice);
    }
    return reply;
  }

  /**
   * A blob has the name that is asked for, or that of its source in quarantine: a host that answers
   * must not have the blocks of another blob read in its place. Throws PeerError.
   */
  #checkKey({ digest, origin }: OpenRequest, reply: OpenReply): void {
    if (reply.outcome !== 'open' || reply.key === digest) return;
    const { hash } = this.#parts;
    const isNamed = origin.opaque === undefined;
    if (isNamed && reply.key === quarantineKey(hash, digest, origin)) return;
    throw new PeerError(`${digest} was opened as ${reply.key}`, { code: 'protocol' });
  }

  /** Whether a client's signed URL may be lent to this root. */
  mayLendTo(root: PeerId): boolean {
    return root === this.#self || this.#known.has(root);
  }

  /**
   * Lends a signed URL to the roots that own other stripes of the blob, so that each can read its
   * own. Never rejects.
   */
  async lend(blob: BlobRef, request: OpenRequest): Promise<void> {
    if (this.#role === 'root') return;
    const owners = new Set<PeerId>();
    for (let stripe = 0; stripe < stripeCount(blob.sizeBytes); stripe++) {
      const owner = this.#ring.order(blob.digest, stripe)[0];
      if (owner !== undefined && this.mayLendTo(owner)) owners.add(owner);
    }
    const { clock } = this.#parts;
    const asks = [...owners].map((owner) =>
      within(clock, LEND_MS_MAX, (signal) => this.ask(owner, request, signal)),
    );
    await Promise.allSettled(asks);
  }

  /** For a peer: a root decides, a relay asks a root. */
  async answer(peer: PeerId, request: OpenRequest): Promise<OpenReply> {
    const { authority, clock, notices } = this.#parts;
    if (authority !== undefined) {
      const reply = await authority.open(request, peer);
      if (reply.outcome !== 'open') return reply;
      const notice = notices.noticeOf(reply.key);
      return notice === undefined ? reply : { ...reply, notice };
    }
    for (const root of this.#ring.order(request.digest, 0)) {
      try {
        return await within(clock, RELAY_MS_MAX, (signal) => this.ask(root, request, signal));
      } catch {
        // The next one may answer.
      }
    }
    return { outcome: 'unavailable', challenge: '', retryAfterMs: 0 };
  }
}
