import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { ClusterPreheats } from '../../src/preheat/preheats.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { preheatNumber, type PreheatJob, type PreheatSpec } from '../../src/preheat/messages.ts';
import { AskRoots } from '../../src/transfer/drive/ask-roots.ts';
import { PeerError, type PeerErrorDetail } from '../../src/transfer/contracts/transport.ts';
import { peerId } from '../../src/util/peer-id.ts';
import { callerOf } from '../kit/caller.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { codec } from '../kit/layers.ts';

const SPEC: PreheatSpec = { reference: 'r.io/app:1', part: 'image', pin: false };
const [SELF, R1, R2, OTHER] = ['self', 'r1', 'r2', 'other'].map(peerId);
const ROOTS = [R1, R2].map((peer) => ({ peer: peer as NonNullable<typeof peer>, addresses: [] }));

/** The preheats of an agent whose roots answer as `answers` say; what they were asked. */
function preheatsOf(role: 'root' | 'relay' | 'child') {
  const asked: string[] = [];
  const answers = new Map<string, PeerErrorDetail['code']>();
  const transport = {
    self: SELF ?? peerId('self'),
    peers: () => [],
    ...callerOf({
      preheat: ({ peer }, request): PreheatJob => {
        asked.push(`${peer} ${request.action}`);
        const code = answers.get(peer);
        if (code === 'overloaded') throw new PeerError(code, { code, retryAfterMs: 1 });
        if (code !== undefined) throw new PeerError(code, { code });
        const known = { id: request.id, spec: SPEC, state: 'running', startedMs: 1 } as const;
        return { ...known, missing: [], hosts: [] };
      },
    }),
  };
  const clock = new ManualClock({ startMs: Date.UTC(2024, 0, 1) });
  const parts = {
    transport,
    engine: {} as never,
    origin: {} as never,
    askRoots: new AskRoots({ clock, logger: silentLogger }),
    store: {} as never,
    codec,
    hash: new NodeHash(),
    clock,
    random: {
      float: () => 0,
      below: () => 5,
      bytes: (count: number) => new Uint8Array(randomBytes(count)),
    },
    logger: silentLogger,
  };
  const init = { role, zone: 'z1', quotaBytes: 2 ** 30 };
  const preheats = new ClusterPreheats(parts, init);
  return { preheats, asked, answers };
}

describe('ClusterPreheats on a host', () => {
  it('is told to preheat by its roots alone', async () => {
    const { preheats } = preheatsOf('child');
    const { handlers } = preheats;
    const ask = (peer = R1) => handlers['host-preheat']?.(peer ?? peerId('r1'), { action: 'ask' });
    await expect(ask()).rejects.toMatchObject({ code: 'refused' });
    preheats.setRoots(ROOTS);
    expect(await ask()).toEqual({ zone: 'z1' });
    await expect(ask(OTHER)).rejects.toMatchObject({ code: 'refused' });
    expect(handlers.preheat).toBeUndefined();
    const status = { action: 'status', id: '1', missing: [] } as const;
    expect(await handlers['host-preheat']?.(peerId('r2'), status)).toEqual({ zone: 'z1' });
    const relay = preheatsOf('relay').preheats;
    relay.setRoots(ROOTS);
    const told = relay.handlers['host-preheat']?.(peerId('r1'), { action: 'ask' });
    await expect(told).rejects.toMatchObject({ code: 'refused' });
  });

  it('has the first root that answers lead a preheat, and asks that one from then on', async () => {
    const { preheats, asked, answers } = preheatsOf('child');
    await expect(preheats.start(SPEC)).rejects.toMatchObject({ code: 'unreachable' });
    preheats.setRoots(ROOTS);
    answers.set('r1', 'unreachable');
    const { id } = await preheats.start(SPEC);
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    // Nobody guesses the next one from it.
    expect((await preheats.start(SPEC)).id.slice(0, 8)).not.toBe(id.slice(0, 8));
    answers.clear();
    await preheats.get(id);
    await preheats.cancel(id);
    expect(asked).toEqual([
      // A root that did not answer is asked last from then on.
      ...['r1 start', 'r2 start', 'r2 start'],
      ...['r2 status', 'r2 cancel'],
    ]);
    answers.set('r2', 'unreachable');
    await expect(preheats.get(id)).rejects.toMatchObject({ code: 'unreachable' });
  });

  it('looks at every root for a preheat that was begun elsewhere', async () => {
    const { preheats, asked, answers } = preheatsOf('child');
    preheats.setRoots(ROOTS);
    answers.set('r1', 'not-found');
    expect(await preheats.get('17')).toMatchObject({ id: '17' });
    answers.set('r2', 'not-found');
    await expect(preheats.get('18')).rejects.toMatchObject({ code: 'not-found' });
    expect(asked).toEqual(['r1 status', 'r2 status', 'r1 status', 'r2 status']);
  });

  it('hands on no pin, which would outlive the preheat on every host', async () => {
    for (const role of ['child', 'relay'] as const) {
      const { preheats, asked } = preheatsOf(role);
      preheats.setRoots(ROOTS);
      const pins = preheats.start({ ...SPEC, pin: true });
      await expect(pins).rejects.toMatchObject({ code: 'refused' });
      expect(asked).toEqual([]);
    }
  });

  it('begins nothing at a second root when the first has too much to do', async () => {
    const { preheats, asked, answers } = preheatsOf('child');
    preheats.setRoots(ROOTS);
    answers.set('r1', 'overloaded');
    await expect(preheats.start(SPEC)).rejects.toMatchObject({ code: 'full' });
    expect(asked).toEqual(['r1 start']);
  });
});

describe('ClusterPreheats on a root', () => {
  it('is told to preheat by nobody, and leads what it is asked for', async () => {
    const { preheats, asked } = preheatsOf('root');
    preheats.setRoots(ROOTS);
    const { handlers } = preheats;
    const ask = handlers['host-preheat']?.(peerId('r1'), { action: 'ask' });
    await expect(ask).rejects.toMatchObject({ code: 'refused' });
    const begun = await preheats.start(SPEC);
    expect(begun).toMatchObject({ spec: SPEC, state: 'waiting' });
    const status = { action: 'status', id: begun.id } as const;
    expect(await handlers.preheat?.(peerId('other'), status)).toMatchObject({ id: begun.id });
    expect(asked).toEqual([]);
    // What another root leads is asked of that one.
    expect(await preheats.get('17')).toMatchObject({ id: '17' });
    expect(asked).toEqual(['r1 status']);
    await preheats.stop();
  });

  it('pins for its own admin endpoint, never for a host of the cluster that asks', async () => {
    const { preheats } = preheatsOf('root');
    const ask = (id: string, pin: boolean) =>
      preheats.handlers.preheat?.(peerId('other'), { action: 'start', id, spec: { ...SPEC, pin } });
    const id = 'ab'.repeat(16);
    await expect(ask(id, true)).rejects.toMatchObject({ code: 'refused' });
    await expect(preheats.get(id)).rejects.toMatchObject({ code: 'not-found' });
    expect(await ask(id, false)).toMatchObject({ id, spec: { pin: false } });
    const own = await preheats.start({ ...SPEC, pin: true });
    expect(own).toMatchObject({ spec: { pin: true } });
    // A host cannot make it one that pins by the id of one that does not.
    await expect(ask(own.id, true)).rejects.toMatchObject({ code: 'refused' });
    await preheats.stop();
  });

  it('takes no guessable id from a host, and finds a preheat by its number', async () => {
    const { preheats } = preheatsOf('root');
    const spec = SPEC;
    for (const id of ['1764000000000123', '', 'AB'.repeat(16)]) {
      const ask = preheats.handlers.preheat?.(peerId('other'), { action: 'start', id, spec });
      await expect(ask).rejects.toMatchObject({ code: 'refused' });
    }
    const { id } = await preheats.start(SPEC);
    const number = preheatNumber(id);
    expect(Number.isSafeInteger(number)).toBe(true);
    expect(await preheats.get(String(number))).toMatchObject({ id });
    await expect(preheats.get(String(number + 1))).rejects.toMatchObject({ code: 'not-found' });
    await preheats.stop();
  });
});
