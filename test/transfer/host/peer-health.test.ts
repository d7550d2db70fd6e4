import { describe, expect, it } from 'vitest';
import {
  PATIENCE_MS_MAX,
  PATIENCE_MS_MIN,
  PeerHealth,
  SILENT_MS_MAX,
  SILENT_MS_MIN,
} from '../../../src/transfer/host/peer-health.ts';
import { peerId } from '../../../src/util/peer-id.ts';

const [A, B, C] = ['a', 'b', 'c'].map((name) => peerId(name)) as [
  ReturnType<typeof peerId>,
  ReturnType<typeof peerId>,
  ReturnType<typeof peerId>,
];

function orderOf(health: PeerHealth, nowMs: number): string {
  return health.order([A, B, C], nowMs).join('');
}

describe('PeerHealth', () => {
  it('PeerHealth.order() puts a silent peer last, for longer each time, until it is heard', () => {
    const health = new PeerHealth();
    let nowMs = 0;
    for (let forMs = SILENT_MS_MIN; forMs < 4 * SILENT_MS_MAX; forMs *= 2) {
      health.silent(A, nowMs);
      // More calls that fail with it are the same silence.
      health.silent(A, nowMs + 1);
      const leftMs = Math.min(forMs, SILENT_MS_MAX);
      expect(orderOf(health, nowMs + leftMs - 1)).toBe('bca');
      nowMs += leftMs;
      expect(orderOf(health, nowMs)).toBe('abc');
      expect(health.isSilent(A)).toBe(true);
    }
    health.silent(A, nowMs);
    health.heard(A);
    expect(orderOf(health, nowMs)).toBe('abc');
    expect(health.isSilent(A)).toBe(false);
  });

  it('PeerHealth.late() has a peer asked last that is not silent', () => {
    const health = new PeerHealth();
    health.late(B, 0);
    expect(orderOf(health, 0)).toBe('acb');
    expect(health.isSilent(B)).toBe(false);
    health.silent(B, 1);
    expect(health.isSilent(B)).toBe(true);
  });

  it('PeerHealth.patienceMs() follows the recent answers to the call, within its bounds', () => {
    const health = new PeerHealth();
    expect(health.patienceMs('stat')).toBe(PATIENCE_MS_MIN);
    for (let i = 0; i < 40; i++) health.answered(A, 'stat', 500);
    expect(health.patienceMs('stat')).toBe(500);
    expect(health.patienceMs('join')).toBe(PATIENCE_MS_MIN);
    for (let i = 0; i < 40; i++) health.answered(A, 'stat', 20_000);
    expect(health.patienceMs('stat')).toBe(PATIENCE_MS_MAX);
    for (let i = 0; i < 32; i++) health.answered(A, 'stat', 5);
    expect(health.patienceMs('stat')).toBe(PATIENCE_MS_MIN);
  });

  it('PeerHealth.takeHedge() lets one call in twenty be asked twice, ten at once', () => {
    const health = new PeerHealth();
    const taken = (): number => {
      let count = 0;
      while (health.takeHedge()) count++;
      return count;
    };
    expect(taken()).toBe(10);
    for (let i = 0; i < 41; i++) health.called();
    expect(taken()).toBe(2);
  });
});
