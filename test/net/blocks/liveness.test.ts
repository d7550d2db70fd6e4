import { describe, expect, it } from 'vitest';
import { PING_AFTER_IDLE_MS, PING_AFTER_MS, PONG_MS } from '../../../src/net/limits.ts';
import { Liveness } from '../../../src/net/blocks/liveness.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

function watched(): {
  clock: ManualClock;
  liveness: Liveness;
  state: { waited: boolean; pings: number; silent: number; checks: number };
} {
  const clock = new ManualClock();
  const state = { waited: false, pings: 0, silent: 0, checks: 0 };
  const liveness = new Liveness(
    { clock },
    {
      isWaitedFor: () => state.waited,
      ping: () => void state.pings++,
      onSilent: () => void state.silent++,
      onCheck: () => void state.checks++,
    },
  );
  return { clock, liveness, state };
}

describe('Liveness', () => {
  it('Liveness asks a peer that is waited for after 2 s, and gives it up 4 s later', () => {
    const { clock, liveness, state } = watched();
    state.waited = true;
    liveness.wake();
    clock.advance(PING_AFTER_MS - 1);
    expect(state.pings).toBe(0);
    clock.advance(1);
    expect(state.pings).toBe(1);
    clock.advance(PONG_MS - 1);
    expect(state.silent).toBe(0);
    clock.advance(1);
    expect(state.silent).toBe(1);
    expect(clock.delays).toEqual([]);
  });

  it('Liveness asks an idle peer seldom', () => {
    const { clock, liveness, state } = watched();
    for (let i = 0; i < 10; i++) {
      clock.advance(PING_AFTER_IDLE_MS);
      liveness.heard();
    }
    expect(state.pings).toBe(10);
    expect(state.silent).toBe(0);
  });

  it('Liveness lets a peer be that says anything', () => {
    const { clock, liveness, state } = watched();
    state.waited = true;
    liveness.wake();
    for (let i = 0; i < 100; i++) {
      clock.advance(PING_AFTER_MS / 2);
      liveness.heard();
    }
    expect(state.pings).toBe(0);
    expect(state.checks).toBeGreaterThan(10);
  });

  it('Liveness.wake() counts the patience from now, not from when the peer was last heard', () => {
    const { clock, liveness, state } = watched();
    clock.advance(PING_AFTER_IDLE_MS - 1);
    state.waited = true;
    liveness.wake();
    clock.advance(PING_AFTER_MS - 1);
    expect(state.pings).toBe(0);
    clock.advance(1);
    expect(state.pings).toBe(1);
  });

  it('Liveness does not blame the peer for a pause of this process', () => {
    const { clock, liveness, state } = watched();
    state.waited = true;
    liveness.wake();
    clock.advance(PING_AFTER_MS);
    clock.stall(60_000);
    expect(state).toMatchObject({ pings: 1, silent: 0 });
    liveness.heard();
    clock.advance(PONG_MS);
    expect(state.silent).toBe(0);
    clock.advance(PING_AFTER_MS + PONG_MS);
    expect(state.silent).toBe(1);
  });

  it('Liveness.stop() leaves no timer', () => {
    const { clock, liveness } = watched();
    liveness.stop();
    expect(clock.delays).toEqual([]);
  });
});
