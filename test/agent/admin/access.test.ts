import type { IncomingMessage } from 'node:http';
import { describe, expect, it } from 'vitest';
import { requireAccess } from '../../../src/agent/admin/access.ts';
import { API, ROUTE_NAMES } from '../../../src/agent/admin/api.ts';
import type { Route } from '../../../src/agent/admin/api.ts';

type Asked = Pick<IncomingMessage, 'headers' | 'socket'>;

function asked(remoteAddress: string, host: string, authorization?: string): Asked {
  const socket = { remoteAddress } as IncomingMessage['socket'];
  return { socket, headers: { host, ...(authorization !== undefined && { authorization }) } };
}

const TOKEN = { accepts: (authorization: string | undefined) => authorization === 'Bearer t' };
const HERE = asked('127.0.0.1', '127.0.0.1:19146');
const ELSEWHERE = asked('10.0.0.7', 'agent.example:19146');

function open(request: Asked, token = TOKEN): readonly string[] {
  return ROUTE_NAMES.filter((name) => {
    try {
      requireAccess(request, API[name], token);
      return true;
    } catch {
      return false;
    }
  });
}

const names = (accepts: (route: Route) => boolean): readonly string[] =>
  ROUTE_NAMES.filter((name) => accepts(API[name]));

describe('requireAccess()', () => {
  it('opens every route to this host', () => {
    expect(open(HERE)).toEqual(ROUTE_NAMES);
    expect(open(asked('::1', '[::1]:19146'))).toEqual(ROUTE_NAMES);
  });

  it('opens all routes but changes to other hosts, and to other names of this host', () => {
    const harmless = names(({ access }) => access !== 'change');
    expect(open(ELSEWHERE)).toEqual(harmless);
    expect(open(asked('127.0.0.1', 'evil.example'))).toEqual(harmless);
    expect(open(asked('10.0.0.7', '127.0.0.1:19146'))).toEqual(harmless);
  });

  it('opens the changes that allow it to the token', () => {
    const withToken = asked('10.0.0.7', 'agent.example', 'Bearer t');
    const allowed = names(({ access, byToken }) => access !== 'change' || byToken === true);
    expect(open(withToken)).toEqual(allowed);
    expect(allowed).not.toContain('mount');
    expect(allowed).toContain('preheat');
  });
});

describe('API', () => {
  it('counts only GET as harmless', () => {
    for (const name of ROUTE_NAMES) {
      const { method, access } = API[name];
      expect(access === 'change', name).toBe(method !== 'GET');
    }
  });
});
