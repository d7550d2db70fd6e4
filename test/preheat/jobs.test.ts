import { describe, expect, it } from 'vitest';
import { preheatFailureText } from '../../src/agent/admin/preheat-text.ts';
import { blockIndex } from '../../src/image/block.ts';
import type { Digest } from '../../src/image/digest.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import {
  type HostPreheatReply,
  type HostPreheatRequest,
  type HostProgress,
  type PreheatJob,
  type PreheatOrder,
  type PreheatSpec,
  isFinal,
} from '../../src/preheat/messages.ts';
import { OriginError } from '../../src/transfer/contracts/origin.ts';
import { CodedError } from '../../src/util/errors.ts';
import { PreheatJobs } from '../../src/preheat/jobs.ts';
import { PeerError } from '../../src/transfer/contracts/transport.ts';
import { defined } from '../../src/util/assert.ts';
import { peerId, type PeerId } from '../../src/util/peer-id.ts';
import { callerOf } from '../kit/caller.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { ORIGIN } from '../kit/engine-cluster.ts';
import { digestOf } from './kit/images.ts';

const MANIFEST = new Uint8Array([1, 2, 3]);
const SPEC: PreheatSpec = { reference: 'r.io/app:1', part: 'image', pin: false };

/** A host that does what `steps` say, one at each look; what it was told. */
class HostTwin {
  readonly zone: string;
  readonly steps: (HostProgress | 'silent' | 'unknown')[] = [];
  readonly told: string[] = [];
  order: PreheatOrder | undefined;
  /** What it was told that the registry has not got. */
  missing: readonly Digest[] = [];
  /** Instead of any answer. */
  refuses = false;

  constructor(zone: string) {
    this.zone = zone;
  }

  answer(request: HostPreheatRequest): HostPreheatReply {
    if (this.refuses) throw new PeerError('refused', { code: 'refused' });
    this.told.push(request.action);
    const { zone } = this;
    if (request.action === 'ask') return { zone };
    if (request.action === 'cancel') return { zone, progress: progress('cancelled', 0) };
    if (request.action === 'start') {
      this.order = request.order;
      return { zone, progress: progress('waiting', 0) };
    }
    this.missing = request.missing;
    const step =
      this.order === undefined ? 'unknown' : (this.steps.shift() ?? progress('done', 10));
    if (step === 'silent') throw new PeerError('gone', { code: 'unreachable' });
    return step === 'unknown' ? { zone } : { zone, progress: step };
  }
}

function progress(state: HostProgress['state'], doneBytes: number): HostProgress {
  return { state, doneBytes, totalBytes: 10 };
}

class Rig {
  readonly hosts = new Map<PeerId, HostTwin>();
  readonly clock = new ManualClock({ sleeps: 'pass' });
  resolveFails: OriginError | undefined;
  resolved = 0;
  manifest: Uint8Array = MANIFEST;
  /** What the registry says of blobs that do not come. */
  readonly probeFails = new Map<Digest, OriginError>();
  readonly probed: string[] = [];
  readonly probedMs: number[] = [];
  readonly jobs = new PreheatJobs({
    transport: {
      peers: () => [...this.hosts.keys()],
      ...callerOf({
        'host-preheat': ({ peer }, request) => {
          const host = this.hosts.get(peer);
          if (host === undefined) throw new PeerError('gone', { code: 'unreachable' });
          return host.answer(request);
        },
      }),
    },
    resolve: async () => {
      this.resolved++;
      if (this.resolveFails !== undefined) throw this.resolveFails;
      const { manifest } = this;
      return { manifestDigest: digestOf(manifest), manifest, origin: ORIGIN };
    },
    probe: async ({ blob }, index) => {
      this.probed.push(`${blob.digest} ${index}`);
      this.probedMs.push(this.clock.nowMs());
      const fails = this.probeFails.get(blob.digest);
      if (fails !== undefined) throw fails;
    },
    clock: this.clock,
    logger: silentLogger,
  });

  add(name: string, zone: string): HostTwin {
    const host = new HostTwin(zone);
    this.hosts.set(peerId(name), host);
    return host;
  }

  async run(spec: PreheatSpec = SPEC): Promise<PreheatJob> {
    const { id } = this.jobs.start('7', spec);
    await expect.poll(() => isFinal(this.jobs.get(id).state)).toBe(true);
    return this.jobs.get(id);
  }
}

/** A manifest of blobs of one block, of which the last one is foreign. */
function manifestOf(...digests: readonly Digest[]): Uint8Array {
  const [config, ...layers] = digests.map((digest, i) => ({
    ...{ mediaType: 'm', digest, size: 10 },
    ...(i === digests.length - 1 && { urls: ['https://elsewhere.example/x'] }),
  }));
  return new TextEncoder().encode(JSON.stringify({ config, layers }));
}

describe('PreheatJobs, of what does not come', () => {
  const [config, layer, foreign] = [1, 2, 3].map((byte) => digestOf(new Uint8Array([byte])));
  const stuckAt = (digest: Digest | undefined, index = 0): HostProgress => {
    const stuck = { digest: defined(digest, 'a digest'), index: blockIndex(index) };
    return { ...progress('running', 0), stuck };
  };
  const rigWith = (): Rig => {
    const rig = new Rig();
    rig.manifest = manifestOf(...[config, layer, foreign].map((each) => defined(each, 'one')));
    return rig;
  };

  it('asks the registry once, and has the hosts do without what it has not got', async () => {
    const rig = rigWith();
    const [a, b] = [rig.add('a', 'z'), rig.add('b', 'z')];
    const digest = defined(foreign, 'a digest');
    rig.probeFails.set(digest, new OriginError('404', { code: 'not-found' }));
    for (const host of [a, b]) host.steps.push(stuckAt(foreign), stuckAt(foreign));
    expect(await rig.run()).toMatchObject({
      state: 'done',
      missing: [{ digest, isForeign: true }],
      hosts: [{ state: 'done' }, { state: 'done' }],
    });
    expect(rig.probed).toEqual([`${digest} 0`]);
    expect([a.missing, b.missing]).toEqual([[digest], [digest]]);
  });

  it('fails with the reason where it is no foreign layer; the hosts have the rest', async () => {
    const rig = rigWith();
    const a = rig.add('a', 'z');
    const digest = defined(layer, 'a digest');
    rig.probeFails.set(digest, new OriginError('404', { code: 'not-found' }));
    const reason = `the registry has not got ${digest}`;
    a.steps.push(stuckAt(layer), { ...progress('failed', 5), failure: 'missing', reason });
    const job = await rig.run();
    const missing = [{ digest, isForeign: false }];
    expect(job).toMatchObject({ state: 'failed', failure: 'missing', reason, missing });
    expect(preheatFailureText(job)).toMatch(new RegExp(`${reason}$`));
  });

  it.each(['refused', 'protocol'] as const)('ends at once where it says %s', async (code) => {
    const rig = rigWith();
    const [a, b] = [rig.add('a', 'z'), rig.add('b', 'z')];
    rig.probeFails.set(defined(layer, 'a digest'), new OriginError('status 451', { code }));
    for (const host of [a, b]) {
      for (let looks = 0; looks < 50; looks++) host.steps.push(stuckAt(layer));
    }
    const job = await rig.run();
    expect(job).toMatchObject({ state: 'failed', failure: code, reason: 'status 451' });
    await expect.poll(() => [a.told.at(-1), b.told.at(-1)]).toEqual(['cancel', 'cancel']);
    expect(rig.probed).toHaveLength(1);
  });

  it('ends at once where it wants to be left alone for long, with its words', async () => {
    const rig = rigWith();
    const a = rig.add('a', 'z');
    const limited = new OriginError('status 429', { code: 'limited' });
    rig.probeFails.set(defined(layer, 'a digest'), limited);
    for (let looks = 0; looks < 50; looks++) a.steps.push(stuckAt(layer));
    const job = await rig.run();
    expect(job).toMatchObject({ failure: 'unavailable', reason: 'status 429' });
    expect(rig.probed).toHaveLength(1);
  });

  it.each([
    ['says that it cannot', 'unavailable'],
    ['breaks off', 'protocol'],
  ])('ends after 30 s of a registry that %s, and not for its silence', async (_, failure) => {
    const [failing, silent] = [failure, 'timeout'].map((code) => {
      const rig = rigWith();
      const cause = new CodedError(code, { code });
      const fails = new OriginError('status 503', { code: 'unavailable' }, { cause });
      rig.probeFails.set(defined(layer, 'a digest'), fails);
      const a = rig.add('a', 'z');
      for (let looks = 0; looks < 60; looks++) a.steps.push(stuckAt(layer));
      return rig;
    });
    const job = await defined(failing, 'a rig').run();
    expect(job).toMatchObject({ failure: 'unavailable', reason: 'status 503' });
    const probedMs = defined(failing, 'a rig').probedMs;
    const lastedMs = (probedMs.at(-1) ?? 0) - (probedMs[0] ?? 0);
    expect(lastedMs).toBeGreaterThanOrEqual(28_000);
    expect(lastedMs).toBeLessThan(34_000);
    expect(await defined(silent, 'a rig').run()).toMatchObject({ state: 'done' });
  });

  it('waits where the registry is away, or gives the block, and asks every 2 s', async () => {
    for (const fails of [new OriginError('away', { code: 'unavailable' }), undefined]) {
      const rig = rigWith();
      const a = rig.add('a', 'z');
      if (fails !== undefined) rig.probeFails.set(defined(layer, 'a digest'), fails);
      for (let looks = 0; looks < 22; looks++) a.steps.push(stuckAt(layer));
      expect(await rig.run()).toMatchObject({ state: 'done', missing: [] });
      const gaps = rig.probedMs.slice(1).map((atMs, i) => atMs - (rig.probedMs[i] ?? 0));
      expect(gaps.length).toBeGreaterThan(0);
      expect(Math.min(...gaps)).toBeGreaterThanOrEqual(2000);
    }
  });

  it('asks for nothing that the image does not name', async () => {
    const rig = rigWith();
    const a = rig.add('a', 'z');
    a.steps.push(stuckAt(digestOf(new Uint8Array([9]))), stuckAt(layer, 1));
    expect(await rig.run()).toMatchObject({ state: 'done' });
    expect(rig.probed).toEqual([]);
  });

  it('says why an image has none for this platform', async () => {
    const rig = new Rig();
    const what = 'r.io/app:1 has no image for linux/amd64; it has: linux/s390x';
    rig.resolveFails = new OriginError(what, { code: 'not-found' });
    expect(await rig.run()).toMatchObject({ failure: 'not-found', reason: what });
  });
});

describe('PreheatJobs', () => {
  it('finds the manifest once, tells every host, and looks until all are done', async () => {
    const rig = new Rig();
    const [a, b] = [rig.add('a', 'z1'), rig.add('b', 'z2')];
    a.steps.push(progress('running', 4), progress('running', 8));
    const job = await rig.run();
    expect(job).toMatchObject({
      id: '7',
      spec: SPEC,
      state: 'done',
      digest: digestOf(MANIFEST),
      hosts: [
        { peer: 'a', zone: 'z1', state: 'done', doneBytes: 10 },
        { peer: 'b', zone: 'z2', state: 'done', doneBytes: 10 },
      ],
    });
    expect(job.failure).toBeUndefined();
    expect(job.finishedMs).toBeGreaterThanOrEqual(job.startedMs);
    expect(rig.resolved).toBe(1);
    expect(a.told).toEqual(['ask', 'status', 'start', 'status', 'status', 'status']);
    expect(b.told).toEqual(['ask', 'status', 'start', 'status']);
    expect(b.order).toMatchObject({ manifest: MANIFEST, part: 'image', pin: false });
    // What is finished costs nothing more.
    expect(rig.clock.slept).toEqual([25, 25, 25]);
  });

  it('looks quickly at first, then once a second, and less often at many hosts', async () => {
    const rig = new Rig();
    const hosts = Array.from({ length: 200 }, (_, i) => rig.add(`h${i}`, 'z'));
    for (let looks = 0; looks < 8; looks++) hosts[0]?.steps.push(progress('running', looks));
    await rig.run();
    // 10 ms for each host that is not done.
    expect(rig.clock.slept).toEqual([2000, 500, 625, 781, 977, 1000, 1000, 1000, 1000]);
  });

  it('starts nothing anew for an id that it knows', async () => {
    const rig = new Rig();
    rig.add('a', 'z');
    await rig.run();
    expect(rig.jobs.start('7', { ...SPEC, pin: true })).toMatchObject({
      state: 'done',
      spec: SPEC,
    });
    expect(rig.resolved).toBe(1);
  });

  it('chooses a zone, a count over the zones, or both; never roots', async () => {
    for (const [change, names] of [
      [{ zone: 'z1' }, ['a', 'b', 'c']],
      [{ count: 2 }, ['a', 'd']],
      [{ count: 4 }, ['a', 'b', 'd', 'e']],
      [{ count: 2, zone: 'z1' }, ['a', 'b']],
      [{ count: 99 }, ['a', 'b', 'c', 'd', 'e']],
    ] as const) {
      const rig = new Rig();
      for (const name of ['c', 'b', 'a']) rig.add(name, 'z1');
      for (const name of ['e', 'd']) rig.add(name, 'z2');
      rig.add('root', 'z1').refuses = true;
      const job = await rig.run({ ...SPEC, ...change });
      expect(job.hosts.map(({ peer }) => peer).sort()).toEqual(names);
    }
  });

  it('fails when no host is meant, or the image is not there', async () => {
    const rig = new Rig();
    rig.add('a', 'z');
    expect(await rig.run({ ...SPEC, zone: 'y' })).toMatchObject({
      state: 'failed',
      failure: 'no-hosts',
    });
    for (const [code, failure] of [
      ['not-found', 'not-found'],
      ['refused', 'refused'],
      ['unavailable', 'unavailable'],
    ] as const) {
      const other = new Rig();
      other.resolveFails = new OriginError(code, { code });
      expect(await other.run()).toMatchObject({ state: 'failed', failure, hosts: [] });
    }
  });

  it('gives a host up that leaves five looks unanswered, and waits for the others', async () => {
    const rig = new Rig();
    const [a, b] = [rig.add('a', 'z'), rig.add('b', 'z')];
    a.steps.push(progress('running', 4), ...Array.from({ length: 5 }, () => 'silent' as const));
    b.steps.push(...Array.from({ length: 9 }, () => progress('running', 4)));
    const job = await rig.run();
    expect(job).toMatchObject({ state: 'failed', failure: 'hosts' });
    expect(job.hosts).toMatchObject([
      { peer: 'a', state: 'failed', failure: 'lost', doneBytes: 4 },
      { peer: 'b', state: 'done' },
    ]);
  });

  it('tells a host anew that was away for a while and has forgotten', async () => {
    const rig = new Rig();
    const a = rig.add('a', 'z');
    const stopped = { ...progress('failed', 1), failure: 'stopped' } as const;
    a.steps.push(stopped, 'silent', 'silent', 'unknown', progress('running', 1));
    expect(await rig.run()).toMatchObject({ state: 'done' });
    expect(a.told.filter((action) => action === 'start')).toHaveLength(2);
  });

  it('misses a host that is connected and does not answer, when all are meant', async () => {
    const rig = new Rig();
    rig.add('a', 'z');
    const dead = rig.add('b', 'z');
    dead.answer = () => {
      throw new PeerError('silent', { code: 'timeout' });
    };
    const job = await rig.run();
    expect(job.hosts).toMatchObject([{ state: 'done' }, { state: 'failed', failure: 'lost' }]);
    const other = await new Rig().run();
    expect(other.failure).toBe('no-hosts');
  });

  it('cancel() ends it on every host that is not done', async () => {
    const rig = new Rig();
    const [a, b] = [rig.add('a', 'z'), rig.add('b', 'z')];
    a.steps.push(progress('done', 10));
    const looks = Promise.withResolvers<void>();
    const answer = b.answer.bind(b);
    b.answer = (request) => {
      if (request.action === 'status') looks.resolve();
      return request.action === 'status' && b.order !== undefined
        ? { zone: 'z', progress: progress('running', 1) }
        : answer(request);
    };
    // Real pauses: there would be no end of looks.
    rig.clock.sleep = (_, signal) =>
      new Promise((resolve, reject) => {
        const next = setImmediate(resolve);
        signal?.addEventListener('abort', () => {
          clearImmediate(next);
          reject(signal.reason as Error);
        });
      });
    rig.jobs.start('7', SPEC);
    await looks.promise;
    await expect.poll(() => rig.jobs.get('7').hosts[0]?.state).toBe('done');
    expect(rig.jobs.cancel('7')).toMatchObject({ state: 'cancelled' });
    await expect.poll(() => b.told.at(-1)).toBe('cancel');
    expect(rig.jobs.get('7').hosts).toMatchObject([{ state: 'done' }, { state: 'cancelled' }]);
    expect(a.told).not.toContain('cancel');
    expect(() => rig.jobs.cancel('8')).toThrow('no preheat 8');
  });

  it('leads eight at a time, and forgets the oldest of more than 64', async () => {
    const rig = new Rig();
    const start = (id: number): PreheatJob => rig.jobs.start(String(id), SPEC);
    for (let id = 0; id < 8; id++) start(id);
    expect(() => start(8)).toThrow('8 preheats are in progress');
    for (let id = 9; id < 80; id++) {
      const ended = String(id < 17 ? id - 9 : id - 1);
      await expect.poll(() => isFinal(rig.jobs.get(ended).state), { interval: 1 }).toBe(true);
      await new Promise((resolve) => setImmediate(resolve));
      start(id);
    }
    expect(() => rig.jobs.get('0')).toThrow('no preheat 0');
    expect(rig.jobs.get('79').id).toBe('79');
    await rig.jobs.stop();
  });

  it('stop() ends what it leads', async () => {
    const rig = new Rig();
    rig.add('a', 'z').answer = () => ({ zone: 'z', progress: progress('running', 1) });
    rig.clock.sleep = (_, signal) =>
      new Promise((_resolve, reject) => {
        signal?.addEventListener('abort', () => reject(signal.reason as Error));
      });
    rig.jobs.start('7', SPEC);
    await expect.poll(() => rig.jobs.get('7').state).toBe('running');
    await rig.jobs.stop();
    expect(rig.jobs.get('7')).toMatchObject({ state: 'failed', failure: 'stopped' });
  });
});
