import { describe, expect, it } from 'vitest';
import { BLOCK_PATIENCE, CALL_PATIENCE } from '../../../src/net/limits.ts';
import { Liveness, type Patience } from '../../../src/net/wire/liveness.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const { pingAfterMs: PING_AFTER_MS, pongMs: PONG_MS } = BLOCK_PATIENCE;
const PING_AFTER_IDLE_MS = BLOCK_PATIENCE.pingAfterIdleMs;

function watched(patience: Patience = BLOCK_PATIENCE): {
  clock: ManualClock;
  liveness: Liveness;
  state: { waited: boolean; pings: number; silent: number; checks: number };
} {
  const clock = new ManualClock();
  const state = { waited: false, pings: 0, silent: 0, checks: 0 };
  const liveness = new Liveness(
    { clock },
    {
      patience,
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

  it('Liveness without an idle time leaves a peer alone that nothing waits for', () => {
    const { clock, liveness, state } = watched(CALL_PATIENCE);
    clock.advance(60_000);
    expect(state.pings).toBe(0);
    expect(clock.delays).toEqual([]);
    state.waited = true;
    liveness.wake();
    clock.advance(1_000);
    expect(state).toMatchObject({ pings: 1, silent: 1 });
  });

  it('Liveness forgets an unanswered ping once nothing waits any more', () => {
    const { clock, liveness, state } = watched(CALL_PATIENCE);
    state.waited = true;
    liveness.wake();
    clock.advance(CALL_PATIENCE.pingAfterMs);
    state.waited = false;
    clock.advance(60_000);
    expect(state).toMatchObject({ pings: 1, silent: 0 });
  });

  it('Liveness.stop() leaves no timer', () => {
    const { clock, liveness } = watched();
    liveness.stop();
    expect(clock.delays).toEqual([]);
  });
});
