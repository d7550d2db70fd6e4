import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import {
  BLOCK_SIZE_BYTES,
  blockIndex,
  type BlobRef,
  type BlockIndex,
} from '../../../src/image/block.ts';
import type { Verdict } from '../../../src/image/attestation.ts';
import { parseDigest, type Digest } from '../../../src/image/digest.ts';
import type { Random } from '../../../src/runtime/random.ts';
import { BlockCore } from '../../../src/transfer/core/core.ts';
import type { CoreInit, PeerSource } from '../../../src/transfer/core/core-types.ts';
import type { AttemptId, Effect } from '../../../src/transfer/core/effects.ts';
import type { TransferErrorDetail } from '../../../src/transfer/contracts/errors.ts';
import type { BlockRequest, PeerErrorDetail } from '../../../src/transfer/contracts/transport.ts';
import { defined } from '../../../src/util/assert.ts';
import { peerId, type PeerId } from '../../../src/util/peer-id.ts';

const BLOB: BlobRef = {
  digest: defined(parseDigest(`sha256:${'ab'.repeat(32)}`), 'a digest'),
  sizeBytes: 20 * BLOCK_SIZE_BYTES,
};

/**
 * A block as the small world sees it: its name, whether its bytes are right, and how many hold it.
 */
export interface Payload {
  readonly name: string;
  readonly good: boolean;
  /** Attested by a root that nobody knows. */
  readonly strange?: boolean;
  holders: number;
}

interface Token {
  readonly name: string;
  readonly asker?: { readonly peer: PeerId; readonly attempt: AttemptId };
}

export interface HostInit {
  readonly sources?: readonly PeerSource[];
  readonly owner?: boolean;
  readonly holders?: readonly string[];
  readonly kin?: readonly string[];
  readonly init?: Partial<CoreInit>;
}

export function source(name: string, role: PeerSource['role']): PeerSource {
  return { host: { peer: peerId(name), addresses: [] }, role };
}

/** One host of the small world. */
export class SmallHost {
  readonly name: string;
  readonly core: BlockCore<Payload, Token>;
  readonly store = new Set<BlockIndex>();
  readonly answers = new Map<string, { block: string; good: boolean; source: string }>();
  readonly failures = new Map<string, TransferErrorDetail>();
  readonly asked: string[] = [];
  /** Where each peer was asked last. */
  readonly askedAt = new Map<PeerId, readonly string[]>();
  readonly lost: string[] = [];
  readonly ordered: BlockIndex[] = [];
  readonly fetched: string[] = [];
  /** Hosts that are said to hold every block. */
  holders: readonly string[];
  /** What the registry of a block is called. */
  sourceKey: (digest: Digest) => string = () => '';
  readonly pendingTokens = new Map<AttemptId, Token>();
  state: 'up' | 'stopped' | 'dead' = 'up';
  /** Time that the store takes for a block. */
  diskMs = 0;
  /** Blocks in the order in which they went to the store. */
  readonly written: string[] = [];
  corrupt = false;
  strange = false;
  /** Answers nothing; a liar says that it is alive all the while. */
  mute = false;
  liar = false;

  constructor(world: SmallWorld, name: string, setup: HostInit) {
    this.name = name;
    this.holders = setup.holders ?? [];
    this.core = new BlockCore<Payload, Token>(
      {
        ops: {
          length: () => BLOCK_SIZE_BYTES,
          retain: (block) => {
            block.holders++;
          },
          release: (block) => {
            if (--block.holders < 0) throw new Error(`${block.name} was released too often`);
          },
        },
        random: world.random,
        held: (_digest, index) => this.store.has(index),
        routes: {
          sources: () => setup.sources ?? [],
          keeps: () => setup.owner ?? false,
          isRoot: (peer) => peer === peerId('root'),
          owns: () => setup.owner ?? false,
          holders: () => this.holders.map((peer) => ({ peer: peerId(peer), addresses: [] })),
          kin: () => (setup.kin ?? []).map((peer) => ({ peer: peerId(peer), addresses: [] })),
          sourceKey: (digest) => this.sourceKey(digest),
          depth: () => setup.sources?.filter((each) => each.role !== 'alternate').length ?? 0,
        },
      },
      setup.init,
    );
    this.core.addBlob(BLOB);
  }
}

/** Hosts whose messages take a random time; the registry is a delay. Everything from one seed. */
export class SmallWorld {
  readonly random: Random;
  readonly hosts = new Map<PeerId, SmallHost>();
  readonly originReads: BlockIndex[] = [];
  readonly payloads: Payload[] = [];
  originFails: PeerErrorDetail | undefined;
  nowMs = 0;
  #events: { atMs: number; order: number; run: () => void }[] = [];
  #order = 0;

  constructor(seed: number) {
    this.random = new SeededRandom(`small world ${seed}`);
  }

  add(name: string, setup: HostInit = {}): SmallHost {
    const host = new SmallHost(this, name, setup);
    this.hosts.set(peerId(name), host);
    return host;
  }

  read(host: SmallHost, name: string, index: number, timeoutMs = 30_000, endsOnNo = false): void {
    const block = { digest: BLOB.digest, index: blockIndex(index) };
    const read = { token: { name }, ...block, kind: 'demand', timeoutMs, endsOnNo } as const;
    host.core.read(read, this.nowMs);
    this.drain(host);
  }

  at(delayMs: number, run: () => void): void {
    this.#events.push({ atMs: this.nowMs + delayMs, order: this.#order++, run });
  }

  /** Runs until nothing is pending or the deadline has passed. */
  run(untilMs = 60_000): void {
    for (;;) {
      let next: { atMs: number; order: number; run: () => void } | undefined;
      for (const event of this.#events) {
        if (
          next === undefined ||
          event.atMs < next.atMs ||
          (event.atMs === next.atMs && event.order < next.order)
        )
          next = event;
      }
      let waker: SmallHost | undefined;
      let wakeMs = next?.atMs ?? Number.POSITIVE_INFINITY;
      for (const host of this.hosts.values()) {
        if (host.state !== 'up') continue;
        const hostWakeMs = host.core.nextWakeMs;
        if (hostWakeMs !== undefined && hostWakeMs < wakeMs) {
          wakeMs = hostWakeMs;
          waker = host;
        }
      }
      if (wakeMs > untilMs) return;
      this.nowMs = Math.max(this.nowMs, wakeMs);
      if (waker !== undefined) {
        waker.core.tick(this.nowMs);
        this.drain(waker);
      } else if (next !== undefined) {
        this.#events.splice(this.#events.indexOf(next), 1);
        next.run();
      }
    }
  }

  kill(host: SmallHost): void {
    host.state = 'dead';
    for (const other of this.hosts.values()) {
      if (other !== host)
        this.deliver(other, () => other.core.peerGone(peerId(host.name), this.nowMs));
    }
  }

  deliver(host: SmallHost, run: () => void, delayMs = 0.2 + this.random.float()): void {
    this.at(delayMs, () => {
      if (host.state === 'dead') return;
      if (host.state === 'stopped') {
        this.deliver(host, run, 50);
        return;
      }
      run();
      this.drain(host);
    });
  }

  drain(host: SmallHost): void {
    for (let effects = host.core.take(); effects.length > 0; effects = host.core.take()) {
      for (const effect of effects) this.#carryOut(host, effect);
    }
  }

  #make(index: BlockIndex, good: boolean): Payload {
    const payload = { name: `block ${index}`, good, holders: 1 };
    this.payloads.push(payload);
    return payload;
  }

  #carryOut(host: SmallHost, effect: Effect<Payload, Token>): void {
    const { core } = host;
    switch (effect.type) {
      case 'answer':
        host.answers.set(effect.token.name, {
          block: effect.block.name,
          good: effect.block.good,
          source: effect.source,
        });
        effect.block.holders--;
        return;
      case 'fail':
        host.failures.set(effect.token.name, effect.detail);
        return;
      case 'send':
        this.#send(host, effect.token, effect.peer, effect.block);
        return;
      case 'refuse': {
        const asker = defined(effect.token.asker, 'peer tokens have an asker');
        const other = this.hosts.get(asker.peer);
        if (other !== undefined) {
          this.deliver(other, () => other.core.failed(asker.attempt, effect.detail, this.nowMs));
        }
        return;
      }
      case 'disk-read': {
        const block = this.#make(effect.index, true);
        this.deliver(host, () =>
          core.diskRead(effect.blob.digest, effect.index, block, this.nowMs),
        );
        return;
      }
      case 'disk-write':
        effect.block.holders--;
        host.written.push(`${effect.index}:${effect.kind}`);
        this.deliver(
          host,
          () => {
            host.store.add(effect.index);
            core.written(BLOCK_SIZE_BYTES, this.nowMs);
          },
          host.diskMs,
        );
        return;
      case 'ask':
        host.askedAt.set(effect.host.peer, effect.host.addresses);
        host.asked.push(`${effect.host.peer}:${effect.request.index}:${effect.request.kind}`);
        this.#ask(host, effect.attempt, effect.host.peer, effect.request);
        return;
      case 'ask-origin':
        this.#askOrigin(host, effect.attempt, effect.index);
        return;
      case 'verify':
        this.deliver(
          host,
          () => core.verified(effect.attempt, verdictOf(effect.block), this.nowMs),
          0.1,
        );
        return;
      case 'lost':
        host.lost.push(`${effect.peer}:${effect.reason}`);
        return;
      case 'no-holder':
        host.holders = host.holders.filter((name) => name !== effect.peer);
        return;
      case 'forgot':
        return;
      case 'touched':
        host.ordered.push(effect.index);
        return;
      case 'fetched':
        host.fetched.push(`${effect.source}:${effect.kind}`);
        return;
      case 'order': {
        const other = this.hosts.get(effect.peer);
        if (other !== undefined)
          this.deliver(other, () => other.core.order(effect.order, this.nowMs));
        return;
      }
      case 'alive': {
        const other = this.hosts.get(effect.peer);
        if (other !== undefined)
          this.deliver(other, () => other.core.alive(peerId(host.name), this.nowMs));
        return;
      }
      case 'promote':
      case 'cancel': {
        const token = host.pendingTokens.get(effect.attempt);
        const peer = token === undefined ? undefined : this.#tokenHost.get(token);
        if (token === undefined || peer === undefined) return;
        this.deliver(peer, () => {
          if (effect.type === 'promote') peer.core.promote(token, this.nowMs);
          else peer.core.cancelForPeer(token, peerId(host.name), this.nowMs);
        });
        return;
      }
    }
  }

  readonly #tokenHost = new Map<Token, SmallHost>();

  #ask(host: SmallHost, attempt: AttemptId, peer: PeerId, request: BlockRequest): void {
    const other = this.hosts.get(peer);
    if (other === undefined || other.state === 'dead') {
      this.deliver(host, () => host.core.failed(attempt, { code: 'unreachable' }, this.nowMs));
      return;
    }
    const token: Token = {
      name: `${host.name}#${attempt}`,
      asker: { peer: peerId(host.name), attempt },
    };
    host.pendingTokens.set(attempt, token);
    this.#tokenHost.set(token, other);
    this.deliver(other, () => {
      if (other.liar) this.#sayAlive(other, host, 50);
      else if (!other.mute) other.core.readForPeer(token, peerId(host.name), request, this.nowMs);
    });
  }

  #sayAlive(liar: SmallHost, host: SmallHost, times: number): void {
    if (times === 0) return;
    this.deliver(host, () => host.core.alive(peerId(liar.name), this.nowMs));
    this.at(100, () => this.#sayAlive(liar, host, times - 1));
  }

  #send(host: SmallHost, token: Token, peer: PeerId, block: Payload): void {
    const asker = defined(token.asker, 'peer tokens have an asker');
    const other = this.hosts.get(peer);
    block.holders--;
    this.deliver(host, () => host.core.sent(token, peer, this.nowMs), 0.5);
    if (other === undefined || other.state === 'dead') return;
    const copy = {
      name: block.name,
      good: block.good && !host.corrupt,
      strange: host.strange,
      holders: 1,
    };
    this.payloads.push(copy);
    this.deliver(other, () => other.core.received(asker.attempt, copy, this.nowMs), 1);
  }

  #askOrigin(host: SmallHost, attempt: AttemptId, index: BlockIndex): void {
    this.originReads.push(index);
    const failure = this.originFails;
    this.deliver(
      host,
      () => {
        if (failure !== undefined) host.core.failed(attempt, failure, this.nowMs);
        else host.core.received(attempt, this.#make(index, true), this.nowMs);
      },
      3,
    );
  }
}

function verdictOf({ good, strange }: Payload): Verdict {
  if (strange === true) return 'unknown-signer';
  return good ? 'good' : 'bad';
}

export const DIGEST: Digest = BLOB.digest;
