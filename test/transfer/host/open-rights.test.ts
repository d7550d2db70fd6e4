import { describe, expect, it } from 'vitest';
import { OpenRights } from '../../../src/transfer/host/open-rights.ts';

const init = { acceptMs: 60_000, staleMs: 600_000 };

describe('OpenRights', () => {
  it('an attacker with many rights that are none pushes no accepted one out', () => {
    const rights = new OpenRights(init);
    rights.accept(rights.get('victim', 0), 0);
    for (let i = 0; i < 1_000; i++) {
      rights.refuse(rights.get(`bogus ${i}`, 0), { code: 'denied', challenges: [] }, 0);
    }
    expect(rights.isAccepted('victim', 1)).toBe(true);
  });

  it('an attacker with many rights loses no question that is in flight', () => {
    const rights = new OpenRights(init);
    const asked = Array.from({ length: 16 }, (_, i) => rights.get(`asked ${i}`, 0));
    for (const right of asked) {
      expect(rights.mayProbe).toBe(true);
      rights.asks(right, 0);
    }
    expect(rights.mayProbe).toBe(false);
    for (let i = 0; i < 1_000; i++) rights.get(`bogus ${i}`, 0);
    for (const [i, right] of asked.entries()) expect(rights.peek(`asked ${i}`)).toBe(right);
    rights.accept(rights.get('asked 0', 0), 0);
    expect(rights.mayProbe).toBe(true);
  });

  it('the least recently used accepted right goes when all are accepted', () => {
    const rights = new OpenRights(init);
    for (let i = 0; i < 256; i++) rights.accept(rights.get(`client ${i}`, 0), 0);
    expect(rights.isAccepted('client 0', 1)).toBe(true);
    rights.accept(rights.get('client 256', 1), 1);
    expect(rights.isAccepted('client 0', 1)).toBe(true);
    expect(rights.peek('client 1')).toBeUndefined();
  });
});
