import { describe, expect, it } from 'vitest';
import { TREE } from '../../../src/net/calls/call-message.ts';
import { CALLS, callOf } from '../../../src/net/calls/call-table.ts';

describe('CALLS', () => {
  it('CALLS have types of their own, below those of the outcomes', () => {
    const types = Object.values(CALLS).map(({ type }) => type);
    const all = [...types, ...Object.values(TREE)];
    expect(new Set(all).size).toBe(all.length);
    expect(Math.max(...types)).toBeLessThan(TREE.OK);
  });

  it('callOf() finds the call of each type, and none of another message', () => {
    for (const [name, { type }] of Object.entries(CALLS)) expect(callOf(type)).toBe(name);
    for (const type of [0, 255, ...Object.values(TREE)]) expect(callOf(type)).toBeUndefined();
  });
});
