import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { PeerError } from '../../../src/transfer/contracts/transport.ts';
import { AskRoots, NobodyError, type Question } from '../../../src/transfer/drive/ask-roots.ts';
import { PATIENCE_MS_MIN, type PeerHealth } from '../../../src/transfer/host/peer-health.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const HOSTS = ['a', 'b', 'c'].map((name) => ({ peer: peerId(name), addresses: [] }));

/** Roots that answer when the test says so. */
function roots(): {
  clock: ManualClock;
  health: PeerHealth;
  asked: string[];
  cancelled: string[];
  ask: (changes?: Partial<Question<string>>) => Promise<string>;
  answer: (name: string, error?: Error) => Promise<void>;
} {
  const clock = new ManualClock();
  const askRoots = new AskRoots({ clock, logger: silentLogger });
  const { health } = askRoots;
  const asked: string[] = [];
  const cancelled: string[] = [];
  const pending = new Map<string, PromiseWithResolvers<string>>();
  return {
    clock,
    health,
    asked,
    cancelled,
    ask: (changes) =>
      askRoots.ask({
        call: 'stat',
        hosts: HOSTS,
        timeoutMs: 10_000,
        ask: ({ peer }, signal) => {
          asked.push(peer);
          const answer = Promise.withResolvers<string>();
          pending.set(peer, answer);
          signal.addEventListener('abort', () => {
            cancelled.push(peer);
            answer.reject(new PeerError('cancelled', { code: 'cancelled' }));
          });
          return answer.promise;
        },
        ...changes,
      }),
    answer: async (name, error) => {
      if (error === undefined) pending.get(name)?.resolve(name);
      else pending.get(name)?.reject(error);
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}

const unreachable = new PeerError('gone', { code: 'unreachable' });
const refused = new PeerError('no', { code: 'refused' });
const overloaded = new PeerError('busy', { code: 'overloaded', retryAfterMs: 1 });

describe('AskRoots', () => {
  it('AskRoots.ask() asks one root while it answers in time', async () => {
    const { ask, answer, asked, clock } = roots();
    const reply = ask();
    await answer('a');
    expect(await reply).toBe('a');
    clock.advance(10_000);
    expect(asked).toEqual(['a']);
  });

  it('AskRoots.ask() goes on after a silence, cancels the loser, and asks it last', async () => {
    const { ask, answer, asked, cancelled, clock } = roots();
    const reply = ask();
    clock.advance(PATIENCE_MS_MIN - 1);
    expect(asked).toEqual(['a']);
    clock.advance(1);
    expect(asked).toEqual(['a', 'b']);
    await answer('b');
    expect(await reply).toBe('b');
    expect(cancelled).toEqual(['a']);
    const next = ask();
    expect(asked.slice(2)).toEqual(['b']);
    await answer('b');
    expect(await next).toBe('b');
  });

  it('AskRoots.ask() goes on at once when a root is gone; a refusal blames nobody', async () => {
    const { ask, answer, asked, health } = roots();
    const reply = ask();
    await answer('a', unreachable);
    await answer('b', overloaded);
    await answer('c');
    expect(await reply).toBe('c');
    expect(asked).toEqual(['a', 'b', 'c']);
    expect(HOSTS.map(({ peer }) => health.isSilent(peer))).toEqual([true, false, false]);
  });

  it('AskRoots.ask() rejects with the error of a root, not a silence, when all fail', async () => {
    const { ask, answer } = roots();
    const reply = ask().catch((error: unknown) => error);
    await answer('a', unreachable);
    await answer('b', refused);
    await answer('c', unreachable);
    expect(await reply).toBe(refused);
  });

  it('AskRoots.ask() takes a final error for the answer', async () => {
    const { ask, answer, asked } = roots();
    const reply = ask({ isFinal: (error) => error === refused }).catch((error: unknown) => error);
    await answer('a', refused);
    expect(await reply).toBe(refused);
    expect(asked).toEqual(['a']);
  });

  it('AskRoots.ask() makes a call that must not repeat one root after the other', async () => {
    const { ask, answer, asked, clock } = roots();
    const reply = ask({ oneByOne: true });
    clock.advance(5_000);
    expect(asked).toEqual(['a']);
    await answer('a', unreachable);
    await answer('b');
    expect(await reply).toBe('b');
  });

  it('AskRoots.ask() ends with its signal, and cancels the calls in flight', async () => {
    const { ask, cancelled } = roots();
    const abort = new AbortController();
    const reply = ask({ signal: abort.signal }).catch((error: unknown) => error);
    abort.abort(new Error('the client left'));
    expect(String(await reply)).toContain('the client left');
    expect(cancelled).toEqual(['a']);
  });

  it('AskRoots.ask() rejects when there is nobody to ask', async () => {
    await expect(roots().ask({ hosts: [] })).rejects.toBeInstanceOf(NobodyError);
  });
});
