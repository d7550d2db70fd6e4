import { describe, expect, it } from 'vitest';
import {
  httpAddress,
  isLoopback,
  isRegistryHost,
  parseListenAddress,
} from '../../src/registry/hosts.ts';

describe('parseListenAddress()', () => {
  it.each([
    ['127.0.0.1:19145', { host: '127.0.0.1', port: 19145 }],
    ['[::1]:0', { host: '::1', port: 0 }],
    ['node-3.rack_1.example:65535', { host: 'node-3.rack_1.example', port: 65535 }],
  ])('reads %s', (text, address) => {
    expect(parseListenAddress(text)).toEqual(address);
  });

  it.each([
    '',
    ':80',
    '127.0.0.1',
    '127.0.0.1:',
    '127.0.0.1:65536',
    '127.0.0.1:080',
    '127.0.0.1:80:81',
    '127.0.0.1:-1',
    '256.1.1.1:80',
    '1.2.3:80',
    '::1:80',
    '[127.0.0.1]:80',
    '[::1]',
    'a b:80',
    '-a:80',
    'a..b:80',
    `${'a'.repeat(254)}:80`,
    'http://a:80',
    'a:80\n',
  ])('refuses %j', (text) => {
    expect(parseListenAddress(text)).toBeUndefined();
  });
});

describe('httpAddress()', () => {
  it('puts an IPv6 host into brackets', () => {
    expect(httpAddress({ host: '::1', port: 80 })).toBe('http://[::1]:80');
    expect(httpAddress({ host: '10.0.0.1', port: 80 })).toBe('http://10.0.0.1:80');
  });
});

describe('isRegistryHost()', () => {
  it('takes names with or without a port and nothing else', () => {
    for (const right of [
      'docker.io',
      'localhost:5000',
      '10.0.0.1:5000',
      '[::1]:5000',
      '[::1]',
      'my_reg:5000',
    ])
      expect(isRegistryHost(right), right).toBe(true);
    for (const wrong of ['', 'a/b', 'https://a', 'user@a', 'a:0', 'a:x'])
      expect(isRegistryHost(wrong), wrong).toBe(false);
  });
});

describe('isLoopback()', () => {
  it('knows both families and the mapped form', () => {
    for (const own of ['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1'])
      expect(isLoopback(own), own).toBe(true);
    for (const other of ['10.0.0.1', '::', '::ffff:10.0.0.1', '', '127.evil.example'])
      expect(isLoopback(other), other).toBe(false);
  });
});
