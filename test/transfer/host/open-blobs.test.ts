import { describe, expect, it } from 'vitest';
import { parseDigest, type Digest } from '../../../src/image/digest.ts';
import type {
  KeptVerdict,
  OpenAnswer,
  OpenEffect,
  OpenRefusal,
} from '../../../src/transfer/host/open-blob-types.ts';
import { PeerHealth } from '../../../src/transfer/host/peer-health.ts';
import { OpenBlobs } from '../../../src/transfer/host/open-blobs.ts';
import { defined } from '../../../src/util/assert.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';

const DIGEST = digest('a1');
const REGISTRY = { registry: 'r.example', repository: 'team/app' };
const STORAGE = { registry: 's.example', repository: '' };
/** What names blocks that only their source vouches for. */
const OWN_KEY = digest('0e');
const ROOTS = ['root-0', 'root-1'] as PeerId[];
/** What a client can bring about: a pause, a bound of this host. */
const UNASKED: readonly OpenRefusal[] = [
  { code: 'rate-limited', retryAfterMs: 300_000 },
  { code: 'undecided' },
];
const DENIED: OpenRefusal = { code: 'denied', challenges: [] };

function digest(pair: string): Digest {
  return defined(parseDigest(`sha256:${pair.repeat(32)}`), 'a digest');
}

type Effect<K extends OpenEffect<string>['type']> = Extract<OpenEffect<string>, { type: K }>;

/** One host, its roots and the origin played by hand. */
class World {
  nowMs = 1000;
  roots: readonly PeerId[] = ROOTS;
  kept: KeptVerdict | undefined;
  readonly health = new PeerHealth();
  readonly blobs: OpenBlobs<string>;
  #effects: OpenEffect<string>[] = [];

  constructor(entriesMax = 100, acceptMs = 60_000) {
    this.blobs = new OpenBlobs(
      {
        health: this.health,
        roots: () => this.roots,
        ownKey: () => OWN_KEY,
        kept: () => this.kept,
      },
      { entriesMax, stripesMax: 3_000, acceptMs, staleMs: 600_000, idleMs: 1_200_000 },
    );
  }

  ask(token: string, right = '', origin = REGISTRY, name = DIGEST, patienceMs = 0): this {
    this.blobs.request({ token, digest: name, origin, right, patienceMs }, this.nowMs);
    return this;
  }

  /** Lets time pass, with every timer on the way. */
  pass(ms: number): this {
    const endMs = this.nowMs + ms;
    for (;;) {
      const wakeMs = this.blobs.nextWakeMs;
      if (wakeMs === undefined || wakeMs > endMs) break;
      this.nowMs = Math.max(this.nowMs, wakeMs);
      this.blobs.tick(this.nowMs);
    }
    this.nowMs = endMs;
    this.blobs.tick(endMs);
    return this;
  }

  /** The effects of one kind since the last look at that kind. */
  took<K extends OpenEffect<string>['type']>(type: K): Effect<K>[] {
    this.#effects.push(...this.blobs.take());
    const found = this.#effects.filter((effect): effect is Effect<K> => effect.type === type);
    this.#effects = this.#effects.filter((effect) => effect.type !== type);
    return found;
  }

  root(answer: Partial<Extract<OpenAnswer, { outcome: 'open' }>> | OpenAnswer = {}): this {
    const [asked] = this.took('ask-root');
    const full: OpenAnswer =
      'outcome' in answer && answer.outcome !== 'open'
        ? (answer as OpenAnswer)
        : { outcome: 'open', key: DIGEST, sizeBytes: 1000, isPublic: false, ...answer };
    this.blobs.answered(defined(asked, 'a root is asked').attempt, full, this.nowMs);
    return this;
  }

  origin(result: number | OpenRefusal | 'unreachable'): this {
    const [probe] = this.took('probe');
    const { attempt } = defined(probe, 'the origin is asked');
    if (typeof result === 'number') {
      this.blobs.probed(attempt, { outcome: 'accepted', sizeBytes: result }, this.nowMs);
    } else if (result === 'unreachable') {
      this.blobs.probed(attempt, { outcome: 'unreachable' }, this.nowMs);
    } else {
      this.blobs.probed(attempt, { outcome: 'refused', refusal: result }, this.nowMs);
    }
    return this;
  }

  granted(): string[] {
    return this.took('grant').map(({ token }) => token);
  }

  refused(): (readonly [string, string])[] {
    return this.took('refuse').map(({ token, refusal }) => [token, refusal.code] as const);
  }
}

describe('OpenBlobs, sizes and rights', () => {
  it('grants what is public by the word of one root, to all who wait, and asks nobody else', () => {
    const world = new World().ask('a').ask('b').ask('c', 'token');
    expect(world.took('ask-root')).toHaveLength(1);
    world.ask('d').took('ask-root');
    const again = new World().ask('a').ask('b').root({ isPublic: true });
    expect(again.granted()).toEqual(['a', 'b']);
    expect(again.took('probe')).toEqual([]);
    expect(
      again.blobs.opened({ digest: DIGEST, origin: REGISTRY, right: 'x' }, again.nowMs),
    ).toEqual({
      blob: { digest: DIGEST, sizeBytes: 1000 },
      isShared: true,
    });
  });

  it('an attacker who shows another right than the one accepted is asked for his own', () => {
    const world = new World().ask('owner', 'good').root().origin(1000);
    expect(world.granted()).toEqual(['owner']);
    world.ask('thief', '');
    expect(world.granted()).toEqual([]);
    world.origin(DENIED);
    expect(world.refused()).toEqual([['thief', 'denied']]);
    expect(world.blobs.opened({ digest: DIGEST, origin: REGISTRY, right: '' }, world.nowMs)).toBe(
      undefined,
    );
  });

  it('an attacker with more bogus rights than are kept is answered, one question each', () => {
    const world = new World().ask('owner', 'good').root().origin(1000);
    world.granted();
    for (let i = 0; i < 600; i++) world.ask(`thief ${i}`, `bogus ${i}`);
    let probes = 0;
    for (let round = 0; round < 100; round++) {
      const asked = world.took('probe');
      expect(asked.length).toBeLessThanOrEqual(16);
      probes += asked.length;
      for (const { attempt } of asked) {
        world.blobs.probed(attempt, { outcome: 'refused', refusal: DENIED }, world.nowMs);
      }
    }
    expect(world.refused()).toHaveLength(600);
    expect(probes).toBe(600);
    world.ask('owner again', 'good');
    expect(world.granted()).toEqual(['owner again']);
  });

  it('an attacker with more requests than may wait opens no entries and asks nobody', () => {
    const world = new World();
    for (let i = 0; i < 4_096; i++) world.ask(`waits ${i}`);
    expect(world.took('ask-root')).toHaveLength(1);
    world.ask('too many', '', REGISTRY, digest('b2'));
    expect(world.refused()).toEqual([['too many', 'undecided']]);
    expect(world.took('ask-root')).toEqual([]);
    expect(world.blobs.count).toBe(1);
  });

  it('a right accepted in one repository opens nothing in another', () => {
    const world = new World().ask('owner', 'good').root().origin(1000);
    const mine = { registry: 'r.example', repository: 'mine/app' };
    world.granted();
    world.ask('thief', 'good', mine);
    expect(world.granted()).toEqual([]);
    world.root().origin({ code: 'not-found' });
    expect(world.refused()).toEqual([['thief', 'not-found']]);
  });

  it('a URL that yields another size than the root knows opens nothing', () => {
    const world = new World()
      .ask('thief', 'page', STORAGE)
      .root({ sizeBytes: 262_144 })
      .origin(3000);
    expect(world.granted()).toEqual([]);
    expect(world.refused()).toEqual([['thief', 'other-content']]);
  });

  it('what one source says of the size counts for no other source', () => {
    const world = new World();
    world.ask('evil', 'x', { registry: 'evil.example', repository: 'x/y' });
    world.root({ outcome: 'no-way' }).origin(100);
    expect(world.took('grant')[0]?.opened).toEqual({
      blob: { digest: OWN_KEY, sizeBytes: 100 },
      isShared: false,
    });
    world.ask('honest', 'good').root({ sizeBytes: 5000 }).origin(5000);
    expect(world.took('grant')[0]?.opened.blob.sizeBytes).toBe(5000);
  });

  it('a wrong size is replaced, its blocks are dropped, and rights are shown again', () => {
    const world = new World().ask('a', 'good').root({ outcome: 'no-way' }).origin(100);
    expect(world.granted()).toEqual(['a']);
    world.pass(61_000).ask('b', 'good').root({ sizeBytes: 5000 });
    expect(world.took('drop').map(({ blob }) => blob.sizeBytes)).toEqual([100]);
    expect(world.granted()).toEqual([]);
    world.origin(5000);
    expect(world.took('grant')[0]?.opened).toEqual({
      blob: { digest: DIGEST, sizeBytes: 5000 },
      isShared: true,
    });
  });

  it('the first size from an own way holds for later rights of the same source', () => {
    const world = new World().ask('a', 'good').root({ outcome: 'no-way' }).origin(100);
    world.granted();
    world.ask('b', 'other').origin(200);
    expect(world.refused()).toEqual([['b', 'other-content']]);
  });

  it('a source that is not believed gets blocks under a key of its own', () => {
    const key = digest('0f');
    const world = new World().ask('a', 'x', STORAGE).root({ key }).origin(1000);
    expect(world.took('grant')[0]?.opened.blob.digest).toBe(key);
  });

  it('an attacker whose URL no root can use keeps no blob from being shared by another URL', () => {
    const world = new World().ask('attacker', 'forged', STORAGE).root({ outcome: 'no-way' });
    world.origin(DENIED);
    expect(world.refused()).toEqual([['attacker', 'denied']]);
    world.ask('client', 'good', STORAGE).origin(1000);
    expect(world.granted()).toEqual([]);
    world.root().ask('again', 'forged', STORAGE);
    expect(world.took('grant').map(({ opened }) => opened.isShared)).toEqual([true]);
    expect(world.refused()).toEqual([['again', 'denied']]);
  });

  it('a right wears off, and is asked for again', () => {
    const world = new World().ask('a', 'good').root().origin(1000);
    world.granted();
    world.pass(60_001).ask('b', 'good');
    expect(world.granted()).toEqual([]);
    world.origin(DENIED);
    expect(world.refused()).toEqual([['b', 'denied']]);
  });

  it('an expired right counts while the origin is away, within its bound', () => {
    const world = new World().ask('a', 'good').root().origin(1000);
    world.granted();
    world.pass(100_000).ask('b', 'good').origin('unreachable');
    expect(world.granted()).toEqual(['b']);
    world.pass(700_000).ask('c', 'good').root().origin('unreachable');
    expect(world.refused()).toEqual([['c', 'unchecked']]);
  });

  it('a right that the origin has just accepted is not asked for again', () => {
    const world = new World();
    const request = { digest: DIGEST, origin: STORAGE, right: 'url' };
    world.blobs.request({ ...request, token: 'a', shownBytes: 1000 }, world.nowMs);
    expect(world.granted()).toEqual([]);
    world.root({ key: OWN_KEY });
    expect(world.granted()).toEqual(['a']);
    expect(world.took('probe')).toEqual([]);
    expect(world.blobs.opened(request, world.nowMs)?.isShared).toBe(true);
    expect(world.blobs.opened({ ...request, right: 'thief' }, world.nowMs)).toBeUndefined();
    // Of another size it is the right to something else.
    world.blobs.request({ ...request, token: 'b', right: 'x', shownBytes: 999 }, world.nowMs);
    expect(world.refused()).toEqual([['b', 'other-content']]);
  });

  it('a right that is not remembered at all still counts for those that wait for it', () => {
    const world = new World(100, 0).ask('a', 'good').root().origin(1000);
    expect(world.granted()).toEqual(['a']);
    expect(world.took('probe')).toEqual([]);
    world.pass(1).ask('b', 'good').origin(1000);
    expect(world.granted()).toEqual(['b']);
  });

  it('an expired right counts after two seconds of a silent origin, and then at once', () => {
    const world = new World().ask('a', 'good').root().origin(1000);
    world.granted();
    world.pass(100_000).ask('b', 'good').pass(1_999);
    expect(world.granted()).toEqual([]);
    world.pass(1).ask('c', 'good');
    expect(world.granted()).toEqual(['b', 'c']);
    expect(world.took('probe')).toHaveLength(1);
    world.ask('d', 'other');
    expect(world.granted()).toEqual([]);
  });

  it('an origin that was silent once keeps nobody waiting the next time', () => {
    const world = new World().ask('a', 'good').root().origin(1000);
    world.granted();
    world.pass(100_000).ask('b', 'good').origin('unreachable');
    expect(world.granted()).toEqual(['b']);
    world.pass(61_000).ask('c', 'good');
    expect(world.granted()).toEqual(['c']);
    world.origin(DENIED);
    world.ask('d', 'good');
    expect(world.refused()).toEqual([['d', 'denied']]);
  });

  it('a right that was taken away does not come back because the origin is away', () => {
    const world = new World().ask('a', 'good').root().origin(1000);
    world.granted();
    world.blobs.rightClosed(
      { digest: DIGEST, origin: REGISTRY, right: 'good' },
      DENIED,
      world.nowMs,
    );
    world.ask('b', 'good');
    expect(world.refused()).toEqual([['b', 'denied']]);
    world.pass(6000).ask('c', 'good').origin('unreachable');
    expect(world.refused()).toEqual([['c', 'unchecked']]);
  });

  it.each(UNASKED)(
    'a revoked right is not kept by an attacker who has the origin not asked: $code',
    (refusal) => {
      const world = new World().ask('a', 'good').root().origin(1000);
      expect(world.granted()).toEqual(['a']);
      world.pass(100_000).ask('b', 'good').origin(refusal);
      expect(world.refused()).toEqual([['b', refusal.code]]);
      expect(world.granted()).toEqual([]);
      world.pass(6_000).ask('c', 'good').pass(1_999).origin(refusal);
      expect(world.refused()).toEqual([['c', refusal.code]]);
      expect(world.granted()).toEqual([]);
    },
  );

  it.each(UNASKED)('a root may still answer for an origin that was not asked: $code', (refusal) => {
    const world = new World();
    ROOTS.forEach((root) => world.health.silent(root, world.nowMs));
    world.ask('a', 'good').pass(700).origin(refusal);
    expect(world.refused()).toEqual([]);
    expect(world.root({ isPublic: true }).granted()).toEqual(['a']);
  });

  it('a refusal is told at once, remembered for seconds, and then asked for again', () => {
    const world = new World().ask('a', 'old').root().origin(DENIED);
    expect(world.refused()).toEqual([['a', 'denied']]);
    world.ask('b', 'old');
    expect(world.refused()).toEqual([['b', 'denied']]);
    expect(world.took('probe')).toEqual([]);
    world.pass(6000).ask('c', 'old').origin(1000);
    expect(world.granted()).toEqual(['c']);
  });

  it('a refusal of the root is the answer to a request that shows nothing, and to no other', () => {
    const refusal: OpenRefusal = { code: 'unauthorized', challenges: ['Bearer realm="r"'] };
    const world = new World().ask('nobody').ask('client', 'good');
    world.root({ outcome: 'refused', refusal });
    expect(world.refused()).toEqual([['nobody', 'unauthorized']]);
    world.origin(1000);
    expect(world.granted()).toEqual(['client']);
  });

  it('a blob that was public is so no longer when the registry refuses the root', () => {
    const world = new World().ask('a').root({ isPublic: true });
    world.granted();
    const refusal: OpenRefusal = { code: 'denied', challenges: [] };
    world.pass(300_001).ask('b').root({ outcome: 'refused', refusal }).pass(1000);
    world.granted();
    world.ask('thief');
    expect(world.granted()).toEqual([]);
    world.origin(DENIED);
    expect(world.refused()).toEqual([['thief', 'denied']]);
  });
});

describe('OpenBlobs, roots that do not answer', () => {
  it('asks the next root after 300 ms, and takes the first answer', () => {
    const world = new World().ask('a');
    expect(world.took('ask-root').map(({ root }) => root)).toEqual(['root-0']);
    world.pass(300);
    world.root({ isPublic: true });
    expect(world.granted()).toEqual(['a']);
    expect(world.took('cancel')).toHaveLength(1);
  });

  const firstAsked = (world: World, name: Digest): string | undefined =>
    world.ask(name, '', REGISTRY, name).took('ask-root')[0]?.root;

  it('asks a root last that any call of this host found silent, until it says something', () => {
    const world = new World();
    world.health.silent(ROOTS[0] as PeerId, world.nowMs);
    expect(firstAsked(world, digest('01'))).toBe('root-1');
    world.health.heard(ROOTS[0] as PeerId);
    expect(firstAsked(world, digest('02'))).toBe('root-0');
    world.health.silent(ROOTS[0] as PeerId, world.nowMs);
    world.pass(1_000);
    expect(firstAsked(world, digest('03'))).toBe('root-0');
  });

  it('asks a root last for a moment that let another one answer before it', () => {
    const world = new World().ask('a').pass(300);
    const [, second] = world.took('ask-root');
    const answer = { outcome: 'open', key: DIGEST, sizeBytes: 1000, isPublic: true } as const;
    world.blobs.answered(defined(second, 'asked').attempt, answer, world.nowMs);
    expect(firstAsked(world, digest('01'))).toBe('root-1');
    expect(world.health.isSilent(ROOTS[0] as PeerId)).toBe(false);
    world.pass(1_000);
    expect(firstAsked(world, digest('02'))).toBe('root-0');
  });

  it('asks each root with what the client showed, so that a late one has its way too', () => {
    const world = new World().ask('a', 'signed', STORAGE).pass(300);
    expect(world.took('ask-root').map(({ right }) => right)).toEqual(['signed', 'signed']);
  });

  it('waits for the owner when the next root has no way', () => {
    const world = new World().ask('a', 'signed', STORAGE).pass(300);
    const [owner, next] = world.took('ask-root');
    const noWay = { outcome: 'no-way', isBelieved: true } as const;
    world.blobs.answered(defined(next, 'asked').attempt, noWay, world.nowMs);
    expect(world.took('probe')).toEqual([]);
    const open = { outcome: 'open', key: DIGEST, sizeBytes: 1000, isPublic: false } as const;
    world.blobs.answered(defined(owner, 'asked').attempt, open, world.nowMs);
    world.origin(1000);
    expect(world.took('grant')[0]?.opened.isShared).toBe(true);
  });

  it('reads alone when the next root has no way and the owner fails', () => {
    const world = new World().ask('a', 'signed', STORAGE).pass(300);
    const [owner, next] = world.took('ask-root');
    const noWay = { outcome: 'no-way', isBelieved: true } as const;
    world.blobs.answered(defined(next, 'asked').attempt, noWay, world.nowMs);
    world.blobs.rootFailed(defined(owner, 'asked').attempt, 'silent', world.nowMs);
    world.origin(1000);
    expect(world.took('grant')[0]?.opened.isShared).toBe(false);
  });

  it('leaves the registry alone while roots are slow, for five seconds', () => {
    const world = new World().ask('a', 'good').pass(4_999);
    expect(world.took('probe')).toEqual([]);
    world.pass(1).origin(1000);
    expect(world.took('grant')[0]?.opened.isShared).toBe(false);
  });

  it('reads by the client’s own way after 700 ms when all roots were silent before', () => {
    const world = new World().ask('a', 'good').pass(300);
    for (const { attempt } of world.took('ask-root')) {
      world.blobs.rootFailed(attempt, 'silent', world.nowMs);
    }
    world.origin(1000);
    world.ask('b', 'good', REGISTRY, digest('b2')).pass(699);
    expect(world.took('probe')).toEqual([]);
    world.pass(1).origin(1000);
    expect(world.granted()).toEqual(['a', 'b']);
  });

  it('asks roots that all fail no more for each request of a blob that is read alone', () => {
    const world = new World().ask('a', 'good').root({ outcome: 'no-way' }).origin(1000);
    world.pass(61_000).ask('b', 'good');
    for (const _ of ROOTS) {
      const [asked] = world.took('ask-root');
      world.blobs.rootFailed(defined(asked, 'asked').attempt, 'silent', world.nowMs);
    }
    world.pass(1_000).ask('c', 'good');
    expect(world.took('ask-root')).toEqual([]);
    world.pass(4_000).ask('d', 'good');
    expect(world.took('ask-root')).toHaveLength(1);
  });

  it('an answer makes a silent root a slow one', () => {
    const world = new World().ask('a', 'good').pass(300);
    const [first, second] = world.took('ask-root');
    world.blobs.rootFailed(defined(first, 'asked').attempt, 'silent', world.nowMs);
    const answer = { outcome: 'no-way', isBelieved: true } as const;
    world.blobs.answered(defined(second, 'asked').attempt, answer, world.nowMs);
    world.origin(1000);
    world.ask('b', 'good', REGISTRY, digest('b2')).pass(4_999);
    expect(world.took('probe')).toEqual([]);
  });

  it('shares the blob when a silent root answers after all', () => {
    const world = new World().ask('a', 'good').pass(5_000);
    const [first] = world.took('ask-root');
    world.origin(1000);
    const answer = { outcome: 'open', key: DIGEST, sizeBytes: 1000, isPublic: true } as const;
    world.blobs.answered(defined(first, 'asked').attempt, answer, world.nowMs);
    expect(
      world.blobs.opened({ digest: DIGEST, origin: REGISTRY, right: '' }, world.nowMs),
    ).toEqual({
      blob: { digest: DIGEST, sizeBytes: 1000 },
      isShared: true,
    });
  });

  it('asks the next root at once when one fails, and the origin when all have', () => {
    const world = new World().ask('a', 'good');
    for (const root of ROOTS) {
      const [asked] = world.took('ask-root');
      expect(asked?.root).toBe(root);
      world.blobs.rootFailed(defined(asked, 'asked').attempt, 'silent', world.nowMs);
    }
    world.origin(1000);
    expect(world.granted()).toEqual(['a']);
  });

  it('shows nothing to the origin for a client that shows nothing, when no root can tell', () => {
    const world = new World().ask('a', '');
    for (const _ of ROOTS) {
      world.root({ outcome: 'refused', refusal: { code: 'unchecked', silent: [] } });
    }
    const challenged: OpenRefusal = { code: 'unauthorized', challenges: ['Bearer x'] };
    world.origin(challenged);
    expect(world.took('refuse').map(({ refusal }) => refusal)).toEqual([challenged]);
  });

  it('asks roots again after 5 s when none answered, after 60 s when one said no way', () => {
    const fail = (world: World): void => {
      for (const { attempt } of world.took('ask-root')) {
        world.blobs.rootFailed(attempt, 'silent', world.nowMs);
      }
    };
    const lost = new World().ask('a', 'good');
    fail(lost);
    fail(lost);
    lost.origin(1000);
    expect(lost.granted()).toEqual(['a']);
    lost.pass(4_900).ask('b', 'good');
    expect(lost.took('ask-root')).toEqual([]);
    lost.pass(200).ask('c', 'good');
    expect(lost.took('ask-root')).toHaveLength(1);
    expect(lost.granted()).toEqual(['b', 'c']);

    const alone = new World().ask('a', 'good').root({ outcome: 'no-way' }).origin(1000);
    alone.pass(59_000).ask('b', 'good');
    expect(alone.took('ask-root')).toEqual([]);
    alone.pass(1_100).ask('c', 'good');
    expect(alone.took('ask-root')).toHaveLength(1);
  });

  it('names those who were silent when nobody answers within the time', () => {
    const world = new World().ask('a', 'good').pass(15_001);
    const [refusal] = world.took('refuse');
    expect(refusal?.refusal).toEqual({
      code: 'unchecked',
      silent: ['root-0', 'root-1', 'r.example'],
    });
  });

  it('waits for a slow root when the origin cannot be reached from this host', () => {
    const world = new World().ask('a', 'good').pass(5_000);
    const [first] = world.took('ask-root');
    world.origin('unreachable').pass(2000);
    expect(world.refused()).toEqual([]);
    const answer = {
      outcome: 'open',
      key: DIGEST,
      sizeBytes: 1000,
      isPublic: true,
    } as const;
    world.blobs.answered(defined(first, 'asked').attempt, answer, world.nowMs);
    expect(world.granted()).toEqual(['a']);
  });

  it('asks roots and origin again for a patient request when none of them answered', () => {
    const world = new World();
    world.roots = ROOTS.slice(0, 1);
    world.ask('hasty', 'good').ask('patient', 'good', REGISTRY, DIGEST, 10_000);
    const fail = (): void => {
      for (const { attempt } of world.took('ask-root')) {
        world.blobs.rootFailed(attempt, 'silent', world.nowMs);
      }
    };
    fail();
    world.origin('unreachable');
    expect(world.refused()).toEqual([['hasty', 'unchecked']]);
    world.pass(500).origin('unreachable').pass(5_000);
    // Roots are asked again too, in their own time.
    world.origin(1000);
    expect(world.granted()).toEqual([]);
    fail();
    expect(world.granted()).toEqual(['patient']);
  });

  it('tells a patient request at once when the registry asks for more patience than that', () => {
    const world = new World();
    world.roots = [];
    const limited = (retryAfterMs: number): OpenRefusal => ({ code: 'rate-limited', retryAfterMs });
    world.ask('long', 'one', REGISTRY, DIGEST, 10_000).origin(limited(60_000));
    expect(world.refused()).toEqual([['long', 'rate-limited']]);
    world.ask('short', 'two', REGISTRY, DIGEST, 10_000).origin(limited(1_000));
    expect(world.refused()).toEqual([]);
    world.pass(1_500).origin(1000);
    expect(world.granted()).toEqual(['short']);
  });

  it('tells a patient request in the end that nobody answers', () => {
    const world = new World();
    world.roots = [];
    world.ask('a', 'good', REGISTRY, DIGEST, 1_000).origin('unreachable');
    world.pass(500).origin('unreachable').pass(500).origin('unreachable');
    expect(world.refused()).toEqual([['a', 'unchecked']]);
  });

  it('asks about blobs that are read alone as soon as a root answers anything', () => {
    const world = new World().ask('a', 'good');
    for (const _ of ROOTS) {
      const [asked] = world.took('ask-root');
      world.blobs.rootFailed(defined(asked, 'asked').attempt, 'silent', world.nowMs);
    }
    world.origin(1000);
    expect(world.took('grant')[0]?.opened.isShared).toBe(false);
    world
      .pass(1_000)
      .ask('b', '', REGISTRY, digest('b2'))
      .root({ key: digest('b2') });
    expect(
      world.blobs.opened({ digest: DIGEST, origin: REGISTRY, right: 'good' }, world.nowMs),
    ).toBe(undefined);
    world.ask('c', 'good');
    expect(world.took('ask-root').map((asked) => asked.digest)).toEqual([DIGEST]);
  });

  it('works without any root', () => {
    const world = new World();
    world.roots = [];
    world.ask('a', 'good').origin(1000);
    expect(world.granted()).toEqual(['a']);
  });

  it('asks each root once in a round about what it knows, however many requests come', () => {
    const world = new World().ask('a').root({ isPublic: true });
    world.pass(300_001);
    for (let i = 0; i < 20; i++) world.ask(`r${i}`).pass(250);
    expect(world.took('ask-root').map(({ root }) => root)).toEqual(ROOTS);
    expect(world.granted()).toHaveLength(21);
  });

  it('goes on serving what it knows while it asks again', () => {
    const world = new World().ask('a').root({ isPublic: true });
    world.granted();
    world.pass(300_001).ask('b');
    expect(world.took('ask-root')).toHaveLength(1);
    expect(world.granted()).toEqual(['b']);
  });

  it('ignores answers that come twice, late, or to another question', () => {
    const world = new World().ask('a', 'good');
    const [asked] = world.took('ask-root');
    const { attempt } = defined(asked, 'asked');
    world.blobs.probed(attempt, { outcome: 'accepted', sizeBytes: 7 }, world.nowMs);
    world.blobs.answered(attempt, { outcome: 'no-way' }, world.nowMs);
    const forged = { outcome: 'open', key: DIGEST, sizeBytes: 7, isPublic: true } as const;
    world.blobs.answered(attempt, forged, world.nowMs);
    world.blobs.answered(99, forged, world.nowMs);
    expect(world.granted()).toEqual([]);
    world.origin(1000);
    expect(world.took('grant')[0]?.opened.blob.sizeBytes).toBe(1000);
  });
});

describe('OpenBlobs, what was public recently', () => {
  const UNCHECKED: OpenAnswer = {
    outcome: 'refused',
    refusal: { code: 'unchecked', silent: [] },
  };

  function restarted(): World {
    const world = new World();
    world.kept = { sizeBytes: 1000, leftMs: 3_600_000 };
    return world;
  }

  /** All roots fail. */
  function away(world: World): World {
    for (const _ of ROOTS) {
      const [asked] = world.took('ask-root');
      world.blobs.rootFailed(defined(asked, 'a root is asked').attempt, 'silent', world.nowMs);
    }
    return world;
  }

  const keeps = (world: World) => world.took('keep').map(({ sizeBytes }) => sizeBytes);

  it('keeps what a root calls public in a repository, and ends it with a no', () => {
    const world = new World().ask('a').root({ isPublic: true });
    expect(world.took('keep')).toEqual([
      { type: 'keep', digest: DIGEST, origin: REGISTRY, sizeBytes: 1000 },
    ]);
    for (const code of ['unauthorized', 'denied', 'not-found'] as const) {
      world.pass(300_001).ask(code);
      world.root({ outcome: 'refused', refusal: { code, challenges: [] } as OpenRefusal });
      expect(keeps(world), code).toEqual([undefined]);
    }
    world.pass(300_001).ask('private').root({ isPublic: false });
    expect(keeps(world)).toEqual([undefined]);
  });

  it('keeps nothing that is private, of a storage, or under a key of its own', () => {
    const world = new World().ask('a', 'good').root({ isPublic: false }).origin(1000);
    expect(keeps(world)).toEqual([undefined]);
    world.ask('b', 'x', STORAGE).root({ isPublic: true });
    world.ask('c', '', { registry: 'evil.example', repository: 'x' });
    world.root({ key: OWN_KEY, isPublic: true });
    expect(keeps(world)).toEqual([]);
  });

  it('ends with the no of the origin to a request that shows nothing, not to another', () => {
    const world = away(new World().ask('a', 'wrong').ask('b'));
    world.origin(DENIED);
    expect(keeps(world)).toEqual([]);
    const again = away(new World().ask('b')).origin(DENIED);
    expect(keeps(again)).toEqual([undefined]);
  });

  it('opens it to anybody when roots and origin are away, and shares it', () => {
    const world = restarted().ask('a').ask('b', 'token');
    for (const _ of ROOTS) world.root(UNCHECKED);
    expect(world.granted()).toEqual([]);
    world.origin('unreachable');
    expect(world.took('grant').map(({ token, opened }) => [token, opened])).toEqual(
      ['a', 'b'].map((token) => [
        token,
        { blob: { digest: DIGEST, sizeBytes: 1000 }, isShared: true },
      ]),
    );
  });

  it('opens it after two seconds when roots and origin are silent', () => {
    const world = restarted().ask('a', 'token').pass(1_999);
    expect(world.granted()).toEqual([]);
    world.pass(1);
    expect(world.granted()).toEqual(['a']);
  });

  it('opens it without any root when the origin cannot be reached', () => {
    const world = restarted();
    world.roots = [];
    world.ask('a').origin('unreachable');
    expect(world.granted()).toEqual(['a']);
  });

  it('does not count against the word of a root or of the origin', () => {
    const byRoot = restarted()
      .ask('a')
      .root({ outcome: 'refused', refusal: DENIED })
      .origin(DENIED);
    expect(byRoot.pass(3_000).refused()).toEqual([['a', 'denied']]);
    const byOrigin = away(restarted().ask('a')).origin(DENIED);
    expect(byOrigin.pass(3_000).refused()).toEqual([['a', 'denied']]);
    const hidden = restarted().ask('a').root({ isPublic: false }).origin(DENIED);
    expect(hidden.pass(3_000).refused()).toEqual([['a', 'denied']]);
    expect([byRoot, byOrigin, hidden].flatMap((world) => world.granted())).toEqual([]);
  });

  it('counts no more once a root or the origin answers', () => {
    const late = away(restarted().ask('a')).pass(2_000);
    expect(late.granted()).toEqual(['a']);
    late.origin(DENIED).ask('b');
    expect(late.refused()).toEqual([['b', 'denied']]);
    const root = restarted().ask('a').pass(2_000);
    root.granted();
    root.root({ outcome: 'refused', refusal: DENIED });
    root.took('probe');
    root.ask('b');
    expect(root.granted()).toEqual([]);
  });

  it.each(UNASKED)('is opened by no attacker who has the origin not asked: $code', (refusal) => {
    const world = away(restarted().ask('a')).origin(refusal);
    expect(world.refused()).toEqual([['a', refusal.code]]);
    // What an outage opened ends so too.
    const open = away(restarted().ask('a')).pass(2_000);
    expect(open.granted()).toEqual(['a']);
    open.origin(refusal).ask('b');
    expect(away(open).refused()).toEqual([['b', refusal.code]]);
    expect(open.granted()).toEqual([]);
  });

  it('is asked about again, at roots and at the origin, while it is in use', () => {
    const world = away(restarted().ask('a')).origin('unreachable');
    expect(world.granted()).toEqual(['a']);
    away(world.pass(60_001).ask('b')).pass(700);
    expect(world.granted()).toEqual(['b']);
    world.origin(DENIED).ask('c');
    expect(keeps(world)).toEqual([undefined]);
    expect(world.refused()).toEqual([['c', 'denied']]);
  });

  it('ends with the word of a root that it has no way', () => {
    const world = away(restarted().ask('a')).origin('unreachable');
    expect(world.granted()).toEqual(['a']);
    world.pass(60_001).ask('b').root({ outcome: 'no-way' }).ask('c');
    world.origin(DENIED);
    expect(world.refused()).toEqual([['c', 'denied']]);
  });

  it('is over a day after a root said so, however long it is in use', () => {
    for (const world of [restarted(), new World()]) {
      const isKept = world.kept !== undefined;
      world.ask('first');
      if (isKept) world.pass(2_000);
      else world.root({ isPublic: true });
      expect(world.granted()).toEqual(['first']);
      world.kept = undefined;
      const lifeMs = isKept ? 3_600_000 : 24 * 3_600_000;
      for (let ms = 0; ms < lifeMs - 600_000; ms += 600_000) {
        world.pass(600_000).ask(`at ${ms}`);
        for (const { attempt } of world.took('ask-root'))
          world.blobs.rootFailed(attempt, 'silent', world.nowMs);
        expect(world.granted()).toEqual([`at ${ms}`]);
      }
      world.pass(600_001).ask('last').origin('unreachable').pass(15_001);
      expect(world.granted()).toEqual([]);
    }
  });

  it('another size at the origin opens nothing of what was kept', () => {
    const world = away(restarted().ask('a', 'good')).pass(2_000);
    expect(world.granted()).toEqual(['a']);
    world.origin(999).ask('b', 'good');
    expect(world.refused()).toEqual([['b', 'other-content']]);
  });
});

describe('OpenBlobs, bounds', () => {
  it('sees 100,000 blobs and keeps as many as it may', () => {
    const world = new World(64);
    for (let i = 0; i < 100_000; i++) {
      const name = defined(parseDigest(`sha256:${i.toString(16).padStart(64, '0')}`), 'a digest');
      world.ask(`t${i}`, '', REGISTRY, name).root({ key: name, isPublic: true });
      expect(world.granted()).toHaveLength(1);
      for (const type of ['close', 'cancel', 'keep'] as const) world.took(type);
    }
    expect(world.blobs.count).toBe(64);
    world.pass(1_300_000);
    expect(world.blobs.nextWakeMs).toBeUndefined();
  });

  it('closes what nobody used for long, and never what somebody waits for', () => {
    const world = new World(2).ask('a').root({ isPublic: true });
    world.granted();
    world.ask('b', 'x', STORAGE, digest('b2')).ask('c', 'x', STORAGE, digest('c3'));
    expect(world.took('close').map(({ blob }) => blob.digest)).toEqual([DIGEST]);
    expect(world.blobs.count).toBe(2);
  });

  it('forgets a client that left', () => {
    const world = new World().ask('a', 'good');
    world.blobs.cancel('a', world.nowMs);
    world.root({ isPublic: true }).pass(20_000);
    expect(world.granted()).toEqual([]);
    expect(world.refused()).toEqual([]);
  });
});
