import { describe, expect, it } from 'vitest';
import { AgentReadiness } from '../../src/agent/readiness.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import type { AgentRole } from '../../src/tree/messages.ts';

function agent(role: AgentRole) {
  const lines: string[] = [];
  const note = (_: object, text: string): void => void lines.push(text);
  const logger = { ...silentLogger, info: note, warn: note };
  const why: Record<'served' | 'reached' | 'joins', string | undefined> = {
    served: undefined,
    reached: undefined,
    joins: undefined,
  };
  const readiness = new AgentReadiness({ logger }, role, {
    notServed: () => why.served,
    notReached: () => why.reached,
    joinRefusal: () => why.joins,
    notices: () => ['a notice'],
  });
  return { readiness, lines, why };
}

describe('AgentReadiness', () => {
  it('is ready once it runs and has found a root, until it stops', () => {
    const { readiness, lines } = agent('child');
    expect(readiness.notReady()).toBe('starting');
    readiness.found();
    readiness.enter('running');
    expect(readiness.notReady()).toBeUndefined();
    expect(lines).toEqual(['ready']);
    readiness.enter('stopping');
    expect(readiness.notReady()).toBe('stopping');
  });

  it.each([
    ['served', 'no root answers', 'no root answers'],
    ['joins', 'refused', 'no root gives this host places: refused'],
    ['reached', 'others cannot reach this host', 'others cannot reach this host'],
  ] as const)(
    'is not ready while it is not %s, and says why and when that ends',
    (part, why, text) => {
      const host = agent('relay');
      host.readiness.enter('running');
      host.readiness.found();
      host.why[part] = why;
      host.readiness.changed();
      expect(host.readiness.notReady()).toBe(text);
      host.why[part] = undefined;
      host.readiness.changed();
      expect(host.lines).toEqual(['ready', 'not ready any more', 'ready']);
      expect(host.readiness.notices()).toEqual(['a notice']);
    },
  );

  it('needs nobody on a root', () => {
    const { readiness, why } = agent('root');
    Object.assign(why, { served: 'a', reached: 'b', joins: 'c' });
    readiness.enter('running');
    expect(readiness.notReady()).toBeUndefined();
  });
});
