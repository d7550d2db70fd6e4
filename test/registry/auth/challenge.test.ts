import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseChallenges } from '../../../src/registry/auth/challenge.ts';

function plain(header: string | readonly string[] | undefined) {
  return parseChallenges(header).map(({ scheme, parameters }) => [
    scheme,
    Object.fromEntries(parameters),
  ]);
}

test.each([
  [undefined, []],
  ['', []],
  ['Basic realm="Registry"', [['basic', { realm: 'Registry' }]]],
  [
    'Bearer realm="https://a.example/token",service="a.example",scope="repository:x/y:pull,push"',
    [
      [
        'bearer',
        {
          realm: 'https://a.example/token',
          service: 'a.example',
          scope: 'repository:x/y:pull,push',
        },
      ],
    ],
  ],
  [
    'Negotiate, Basic realm = "a \\"quoted\\" one" , charset=UTF-8, BEARER Realm=x',
    [
      ['negotiate', {}],
      ['basic', { realm: 'a "quoted" one', charset: 'UTF-8' }],
      ['bearer', { realm: 'x' }],
    ],
  ],
  [
    'NTLM TlRMTVNTUAAB==, Basic realm="x", realm="y"',
    [
      ['ntlm', {}],
      ['basic', { realm: 'x' }],
    ],
  ],
  [
    ['Basic realm=a', 'Bearer realm=b'],
    [
      ['basic', { realm: 'a' }],
      ['bearer', { realm: 'b' }],
    ],
  ],
  ['realm="x"', []],
  ['Bearer realm="never closed', [['bearer', {}]]],
])('parseChallenges() reads %j', (header, expected) => {
  expect(plain(header)).toEqual(expected);
});

test('parseChallenges() reads what was written, and never throws', () => {
  const word = fc.stringMatching(/^[a-z]{1,8}$/);
  const parameters = fc.dictionary(word, fc.string({ maxLength: 20 }), { minKeys: 1, maxKeys: 4 });
  fc.assert(
    fc.property(word, parameters, (scheme, values) => {
      const quote = (text: string): string => `"${text.replaceAll(/["\\]/g, '\\$&')}"`;
      const written = Object.entries(values).map(([name, value]) => `${name}=${quote(value)}`);
      expect(plain(`${scheme} ${written.join(', ')}`)).toEqual([[scheme, { ...values }]]);
    }),
  );
  fc.assert(fc.property(fc.string(), (text) => Array.isArray(parseChallenges(text))));
});
