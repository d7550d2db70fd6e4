import { describe, expect, it } from 'vitest';
import { ipOf, isTcpAddress, networkOf, withObserved } from '../../../src/net/wire/addresses.ts';
import { peerId } from '../../../src/util/peer-id.ts';

const peer = peerId('p');

describe('isTcpAddress()', () => {
  it.each([
    '/ip4/10.0.0.1/tcp/19147',
    '/ip4/255.255.255.255/tcp/65535',
    '/ip6/fd00::1/tcp/1',
    '/ip6/::ffff:10.0.0.1/tcp/1',
  ])('isTcpAddress() takes %s', (text) => expect(isTcpAddress(text)).toBe(true));

  it.each([
    '/dns4/metadata.internal/tcp/80',
    '/dns/localhost/tcp/80',
    '/dnsaddr/example.org',
    '/unix/var%2Frun%2Fdocker.sock',
    '/ip4/10.0.0.1/tcp/0',
    '/ip4/10.0.0.1/tcp/65536',
    '/ip4/10.0.0.256/tcp/1',
    '/ip4/10.0.0.1/udp/1',
    '/ip4/10.0.0.1/tcp/1/ws',
    '/ip4/10.0.0.1/tcp/1/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5',
    '',
    ' /ip4/10.0.0.1/tcp/1',
  ])('isTcpAddress() refuses %s', (text) => expect(isTcpAddress(text)).toBe(false));
});

describe('withObserved()', () => {
  const addresses = ['/ip4/172.17.0.1/tcp/19147', '/ip4/10.0.0.7/tcp/19147'];

  it('withObserved() puts the address that a host is seen under first, on its own port', () => {
    const seen = withObserved({ peer, addresses }, '/ip4/10.0.0.7/tcp/40000');
    expect(seen).toEqual(['/ip4/10.0.0.7/tcp/19147', '/ip4/172.17.0.1/tcp/19147']);
    expect(withObserved({ peer, addresses }, '/ip6/fd00::7/tcp/40000')).toEqual([
      '/ip6/fd00::7/tcp/19147',
      ...addresses,
    ]);
  });

  it('withObserved() keeps at most eight', () => {
    const many = Array.from({ length: 8 }, (_, i) => `/ip4/10.96.0.${i}/tcp/1`);
    const seen = withObserved({ peer, addresses: many }, '/ip4/10.0.0.7/tcp/2');
    expect(seen).toEqual(['/ip4/10.0.0.7/tcp/1', ...many.slice(0, 7)]);
  });

  it('withObserved() takes the port of the family, and IPv4 in the form of IPv6 as IPv4', () => {
    const both = ['/ip6/fd00::1/tcp/7', '/ip4/10.0.0.7/tcp/19147'];
    const seen = withObserved({ peer, addresses: both }, '/ip6/::ffff:10.0.0.9/tcp/40000');
    expect(seen).toEqual(['/ip4/10.0.0.9/tcp/19147', ...both]);
  });

  it.each(['/ip4/127.0.0.1/tcp/2', '/ip6/::1/tcp/2', '/ip6zone/eth0/ip6/fe80::7/tcp/2'])(
    'withObserved() tells nobody of %s, which leads to the host from one place alone',
    (observed) => expect(withObserved({ peer, addresses }, observed)).toBe(addresses),
  );

  it('withObserved() leaves alone what was announced, and hosts that do not listen', () => {
    const announced = { peer, addresses, announced: true };
    expect(withObserved(announced, '/ip4/10.0.0.7/tcp/2')).toBe(addresses);
    expect(withObserved({ peer, addresses: [] }, '/ip4/10.0.0.7/tcp/2')).toEqual([]);
  });
});

describe('ipOf() and networkOf()', () => {
  it.each([
    ['/ip4/10.0.0.1/tcp/1', '10.0.0.1', undefined],
    ['/ip6/2001:db8::1/tcp/1', '2001:db8::1', '2001:db8:0:0::/64'],
    ['/ip6/2001:0db8:0001:0002:3:4:5:6/tcp/1', '2001:0db8:0001:0002:3:4:5:6', '2001:db8:1:2::/64'],
    ['/ip6/::1/tcp/1', '::1', '0:0:0:0::/64'],
    ['/ip6/::ffff:10.0.0.1/tcp/1', '10.0.0.1', undefined],
    ['/unix/x', '/unix/x', undefined],
  ])('ipOf() and networkOf() of %s', (address, ip, network) => {
    expect(ipOf(address)).toBe(ip);
    expect(networkOf(ip)).toBe(network);
  });
});
