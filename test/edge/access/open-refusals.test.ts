import { describe, expect, it } from 'vitest';
import { type AccessError, refusalOf } from '../../../src/edge/access/access-error.ts';
import { accessError, probeFailure } from '../../../src/edge/access/open-refusals.ts';
import { protocolError, RegistryError } from '../../../src/registry/errors.ts';
import { DeadlineError } from '../../../src/runtime/deadline.ts';

const AT = { scheme: 'https', registry: 'r.example', repository: 'app', url: '' } as const;
const answered = (status: number): AccessError => refusalOf({ status, headers: {} }, AT);

function unavailable(code?: string): RegistryError {
  const cause = Object.assign(new Error('no connection'), { code });
  return new RegistryError('no connection', { code: 'unavailable' }, { cause });
}

describe('probeFailure()', () => {
  it.each([
    ['no connection', unavailable('ECONNREFUSED')],
    ['silence', new RegistryError('silent', { code: 'timeout', timeoutMs: 1 })],
    ['no answer in time', new DeadlineError('late')],
    ['an error of the origin', answered(500)],
    ['a gateway without the origin', answered(503)],
  ])('takes %s for an outage', (_, error) => {
    expect(probeFailure(error)).toEqual({ outcome: 'unreachable' });
  });

  it.each([
    ['a line that is full', new RegistryError('full', { code: 'overloaded' })],
    ['no descriptor left', unavailable('EMFILE')],
    ['no port left', unavailable('EADDRNOTAVAIL')],
    ['a defect', new TypeError('x')],
  ])('takes %s for no outage that an attacker could bring about', (_, error) => {
    const result = probeFailure(error);
    expect(result).toEqual({ outcome: 'refused', refusal: { code: 'undecided' } });
    expect(accessError({ code: 'undecided' }, AT).code).toBe('unchecked');
  });

  it.each([
    ['a token that is called bad', answered(400)],
    ['another no', answered(451)],
    ['an address that it may not reach', protocolError('forbidden-address', 'no')],
    ['what is not HTTP', protocolError('not-http', 'no')],
  ])('tells %s at once, and why', (_, error) => {
    const result = probeFailure(error);
    const refusal = { code: 'unsound', why: error.message } as const;
    expect(result).toEqual({ outcome: 'refused', refusal });
    expect(accessError(refusal, AT)).toMatchObject({ code: 'unsound', message: error.message });
  });

  it.each([
    ['a pause', new RegistryError('paused', { code: 'rate-limited', retryAfterMs: 1000 })],
    ['429', answered(429)],
  ])('tells %s as what the client has to wait for', (_, error) => {
    const refusal = { code: 'rate-limited', retryAfterMs: 1000 };
    expect(probeFailure(error)).toEqual({ outcome: 'refused', refusal });
  });
});
