import { describe, expect, it } from 'vitest';
import { isOpen, requireAccess, type Door, type Tokens } from '../../../src/agent/admin/access.ts';
import { API, ROUTE_NAMES, type RouteName } from '../../../src/agent/admin/api.ts';

const token = (text: string) => ({
  accepts: (authorization: string | undefined) => authorization === `Bearer ${text}`,
});
const BOTH: Tokens = { change: token('c'), read: token('r') };

interface Asked {
  readonly door?: Door;
  readonly bearer?: string;
  readonly tokens?: Tokens;
}

/** What a request to a route comes to: `open`, or the code of its refusal. */
function outcome(name: RouteName, { door = 'tcp', bearer, tokens = BOTH }: Asked): string {
  const headers = bearer === undefined ? {} : { authorization: `Bearer ${bearer}` };
  try {
    requireAccess(headers, API[name].access, { door, tokens });
    return 'open';
  } catch (error) {
    return (error as { code: string }).code;
  }
}

const open = (asked: Asked): readonly string[] =>
  ROUTE_NAMES.filter((name) => outcome(name, asked) === 'open');
const withAccess = (...kinds: readonly string[]): readonly string[] =>
  ROUTE_NAMES.filter((name) => kinds.includes(API[name].access));

describe('requireAccess()', () => {
  it('opens every route over the socket', () => {
    expect(open({ door: 'socket', tokens: {} })).toEqual(ROUTE_NAMES);
  });

  it('opens probes and metrics alone over TCP, wherever the request comes from', () => {
    const harmless = withAccess('probe', 'metrics');
    for (const asked of [{}, { bearer: 'x' }, { tokens: {} }, { bearer: 'c', tokens: {} }]) {
      expect(open(asked)).toEqual(harmless);
      expect(outcome('status', asked)).toBe('unauthorized');
      expect(outcome('mount', asked)).toBe('unauthorized');
    }
    expect(harmless).toContain('live');
    expect(harmless).not.toContain('preheatStatus');
  });

  it('opens what reads to the token for it, and all to the other token', () => {
    expect(open({ bearer: 'r' })).toEqual(withAccess('probe', 'metrics', 'read'));
    expect(outcome('mount', { bearer: 'r' })).toBe('forbidden');
    expect(open({ bearer: 'c' })).toEqual(ROUTE_NAMES);
  });
});

describe('API', () => {
  it('counts only GET as harmless', () => {
    for (const name of ROUTE_NAMES) {
      const { method, access } = API[name];
      expect(access === 'change', name).toBe(method !== 'GET');
    }
  });

  it('gives nothing away that names an image, a peer or a folder', () => {
    const harmless = ROUTE_NAMES.filter((name) => isOpen(API[name].access));
    expect(harmless).toEqual([
      ...['live', 'ready', 'metrics'],
      ...['dragonfly1Health', 'dragonfly2Health', 'krakenHealth'],
    ]);
  });
});
