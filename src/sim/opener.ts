import type { BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { RootRing } from '../tree/rendezvous.ts';
import type { HostAddress } from '../tree/messages.ts';
import type { OpenAnswer, OpenEffect } from '../transfer/host/open-blob-types.ts';
import { OpenBlobs } from '../transfer/host/open-blobs.ts';
import { PeerHealth } from '../transfer/host/peer-health.ts';
import { unreachable } from '../util/assert.ts';
import type { PeerId } from '../util/peer-id.ts';
import type { AgentWorld } from './agent-world.ts';
import type { HostNumber, LocalToken } from './events.ts';
import type { SimBlob } from './workload.ts';

/** As the agent's gate has them. */
const LIMITS = {
  entriesMax: 16_384,
  stripesMax: 3_072,
  acceptMs: 300_000,
  staleMs: 600_000,
  idleMs: 20 * 60_000,
} as const;

/** As the prefix has it for its clients. */
const PATIENCE_MS = 10_000;

/** What a client waits for: a block of a blob, or that the blob is open. */
export type OpenWish = LocalToken | { readonly kind: 'blob'; readonly blob: SimBlob };

/** What an opener has its agent do. Times are of the agent's own clock. */
export interface OpenerHost {
  /** Asks a root to open a blob; then `answered()` or `rootFailed()`. */
  askRoot(id: number, root: PeerId, digest: Digest): void;
  /** Gets one byte of a blob from the registry; `id`: of a probe, undefined for a root's own. */
  stat(digest: Digest, id: number | undefined): void;
  /** The root's word for a peer that asked it. */
  tell(to: HostNumber, id: number, answer: OpenAnswer): void;
  /** The blob is open: joins its trees, or reads it alone. */
  join(blob: BlobRef, isShared: boolean): void;
  leave(blob: BlobRef): void;
  read(token: LocalToken): void;
  refuse(token: LocalToken): void;
}

/**
 * The blobs that clients of a simulated host have open, by the production reducer; on a root also
 * its word about a blob, which costs one request to the registry. All blobs are public.
 */
export class SimOpener {
  readonly #host: OpenerHost;
  readonly #world: AgentWorld;
  readonly #blobs: OpenBlobs<OpenWish>;
  readonly #joined = new Map<Digest, boolean>();
  /** Of a root: what it knows, and who waits for its word. */
  readonly #known = new Set<Digest>();
  readonly #askers = new Map<Digest, { readonly from: HostNumber; readonly id: number }[]>();

  constructor(
    components: { readonly host: OpenerHost; readonly world: AgentWorld },
    init: { readonly roots: readonly HostAddress[] },
  ) {
    this.#host = components.host;
    this.#world = components.world;
    const ring = new RootRing(init.roots.map(({ peer }) => peer));
    this.#blobs = new OpenBlobs(
      {
        health: new PeerHealth(),
        roots: (digest) => ring.order(digest, 0),
        ownKey: ({ digest }) => digest,
        // No simulated host is restarted with its store.
        kept: () => undefined,
      },
      LIMITS,
    );
  }

  get nextWakeMs(): number | undefined {
    return this.#blobs.nextWakeMs;
  }

  /** A client reads a block, or opens a blob in advance. */
  wish(wish: OpenWish, localMs: number): void {
    const { digest } = wish.kind === 'blob' ? wish.blob : wish.block.blob;
    const origin = this.#world.originName;
    const request = { token: wish, digest, origin, right: '', patienceMs: PATIENCE_MS };
    const opened = this.#blobs.opened(request, localMs);
    if (opened === undefined) this.#blobs.request(request, localMs);
    else if (wish.kind === 'local') this.#host.read(wish);
    this.#carryOut();
  }

  answered(id: number, answer: OpenAnswer, localMs: number): void {
    this.#blobs.answered(id, answer, localMs);
    this.#carryOut();
  }

  rootFailed(id: number, localMs: number): void {
    this.#blobs.rootFailed(id, 'silent', localMs);
    this.#carryOut();
  }

  tick(localMs: number): void {
    this.#blobs.tick(localMs);
    this.#carryOut();
  }

  /** A peer asks this root. */
  asked(from: HostNumber, id: number, digest: Digest): void {
    if (this.#known.has(digest)) return this.#tell(digest, [{ from, id }], true);
    const askers = this.#askers.get(digest);
    if (askers !== undefined) return void askers.push({ from, id });
    this.#askers.set(digest, [{ from, id }]);
    this.#host.stat(digest, undefined);
  }

  /** The registry answered `stat()`, or did not. */
  statDone(digest: Digest, id: number | undefined, ok: boolean, localMs: number): void {
    if (id === undefined) {
      const askers = this.#askers.get(digest) ?? [];
      this.#askers.delete(digest);
      if (ok) this.#known.add(digest);
      return this.#tell(digest, askers, ok);
    }
    const { sizeBytes } = this.#world.library.blob(digest);
    const result = ok ? { outcome: 'accepted' as const, sizeBytes } : UNREACHABLE;
    this.#blobs.probed(id, result, localMs);
    this.#carryOut();
  }

  #tell(
    key: Digest,
    askers: readonly { readonly from: HostNumber; readonly id: number }[],
    ok: boolean,
  ): void {
    const { sizeBytes } = this.#world.library.blob(key);
    const answer: OpenAnswer = ok
      ? { outcome: 'open', key, sizeBytes, isPublic: true }
      : { outcome: 'refused', refusal: { code: 'unchecked', silent: [] } };
    for (const { from, id } of askers) this.#host.tell(from, id, answer);
  }

  #carryOut(): void {
    for (let effects = this.#blobs.take(); effects.length > 0; effects = this.#blobs.take()) {
      for (const effect of effects) this.#do(effect);
    }
  }

  #do(effect: OpenEffect<OpenWish>): void {
    switch (effect.type) {
      case 'ask-root':
        return this.#host.askRoot(effect.attempt, effect.root, effect.digest);
      case 'probe':
        return this.#host.stat(effect.digest, effect.attempt);
      case 'grant': {
        const { token, opened } = effect;
        const { blob, isShared } = opened;
        if (this.#joined.get(blob.digest) !== isShared) this.#host.join(blob, isShared);
        this.#joined.set(blob.digest, isShared);
        if (token.kind === 'local') this.#host.read(token);
        return;
      }
      case 'refuse':
        if (effect.token.kind === 'local') this.#host.refuse(effect.token);
        return;
      case 'drop':
      case 'close':
        this.#joined.delete(effect.blob.digest);
        return this.#host.leave(effect.blob);
      case 'cancel':
      case 'keep':
        return;
      default:
        return unreachable(effect);
    }
  }
}

const UNREACHABLE = { outcome: 'unreachable' } as const;
