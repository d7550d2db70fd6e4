import { expect, test } from 'vitest';
import { ProxyRules } from '../../../src/registry/http/proxy.ts';

const rules = new ProxyRules({
  httpProxy: 'http://plain.example:3128',
  httpsProxy: 'http://secure.example:3128',
  noProxy:
    'corp.example, .dot.example *.star.example,other.example:8443 ' +
    '10.0.0.0/8,192.0.2.7,fd00::/8,[2001:db8::1]:443,bad/99',
});

test.each([
  ['https://registry.example/v2/', 'http://secure.example:3128'],
  ['http://registry.example/v2/', 'http://plain.example:3128'],
  ['https://corp.example/', undefined],
  ['https://CORP.example:8443/', undefined],
  ['https://a.b.corp.example/', undefined],
  ['https://notcorp.example/', 'http://secure.example:3128'],
  ['https://dot.example/', undefined],
  ['https://a.dot.example/', undefined],
  ['https://a.star.example/', undefined],
  ['https://other.example:8443/', undefined],
  ['https://other.example/', 'http://secure.example:3128'],
  ['http://10.1.2.3:5000/', undefined],
  ['http://11.1.2.3:5000/', 'http://plain.example:3128'],
  ['https://192.0.2.7/', undefined],
  ['https://192.0.2.8/', 'http://secure.example:3128'],
  ['https://[fd12::3]/', undefined],
  ['https://[2001:db8::1]/', undefined],
  ['https://[2001:db8::1]:8443/', 'http://secure.example:3128'],
  ['http://localhost:5000/', undefined],
  ['http://127.8.0.1:5000/', undefined],
  ['http://[::1]:5000/', undefined],
])('ProxyRules.proxyOf() of %s is %s', (url, proxy) => {
  expect(rules.proxyOf(new URL(url))).toBe(proxy);
});

test('ProxyRules.proxyOf() names no proxy where none is set, or NO_PROXY is *', () => {
  const url = new URL('https://registry.example/');
  expect(new ProxyRules({}).proxyOf(url)).toBeUndefined();
  expect(new ProxyRules({ httpProxy: 'http://p' }).proxyOf(url)).toBeUndefined();
  expect(new ProxyRules({ httpsProxy: 'http://p', noProxy: 'a *' }).proxyOf(url)).toBeUndefined();
});
