import { describe, expect, it } from 'vitest';
import { ownAddresses } from '../../../src/agent/cluster/own-addresses.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const WILDCARD = ['/ip4/0.0.0.0/tcp/19147'];

function host(addressCount: number): {
  lines: string[];
  tell: (config?: {
    listen?: readonly string[];
    announce?: readonly string[];
    roots?: readonly string[];
  }) => ReturnType<typeof ownAddresses>;
} {
  const lines: string[] = [];
  const detected = Array.from({ length: addressCount }, (_, i) => ({
    family: 'ip4' as const,
    address: `10.96.0.${i}`,
  }));
  const components = {
    clock: new ManualClock(),
    logger: { ...silentLogger, warn: (_: object, text: string) => void lines.push(text) },
    detect: () => [...detected, { family: 'ip4' as const, address: '10.77.0.3' }],
    sourceTo: (to: string) =>
      to === '10.77.0.2' ? Promise.resolve('10.77.0.3') : Promise.reject(new Error('no way')),
  };
  return {
    lines,
    tell: (config) =>
      ownAddresses(components, { listen: WILDCARD, announce: [], roots: [], ...config }),
  };
}

describe('ownAddresses()', () => {
  it('ownAddresses() of many are eight, those towards the roots first, and warns', async () => {
    const { tell, lines } = host(20);
    const roots = ['/ip4/10.77.0.2/tcp/19147', 'dns:nowhere:19147', '/dns4/no/tcp/1'];
    const { addresses, announced } = await tell({ roots });
    expect(addresses).toHaveLength(8);
    expect(addresses[0]).toBe('/ip4/10.77.0.3/tcp/19147');
    expect(announced).toBe(false);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain('p2p.announce');
  });

  it('ownAddresses() of a host with few are all of them', async () => {
    const { tell, lines } = host(1);
    const { addresses } = await tell();
    expect(addresses).toEqual(['/ip4/10.96.0.0/tcp/19147', '/ip4/10.77.0.3/tcp/19147']);
    expect(lines).toEqual([]);
  });

  it('ownAddresses() leave link-local IPv6 out, and put link-local IPv4 last', async () => {
    const detect = () => [
      { family: 'ip6' as const, address: 'fe80::1' },
      { family: 'ip6' as const, address: 'FEB0::1' },
      { family: 'ip4' as const, address: '169.254.3.4' },
      { family: 'ip6' as const, address: 'fd00::7' },
      { family: 'ip4' as const, address: '10.0.0.7' },
    ];
    const sourceTo = (to: string) =>
      to === 'fd00::2' ? Promise.resolve('fd00::7') : Promise.reject(new Error('no way'));
    const listen = ['/ip4/0.0.0.0/tcp/1', '/ip6/::/tcp/2'];
    const config = { listen, announce: [], roots: ['/ip6/fd00::2/tcp/19147'] };
    const parts = { clock: new ManualClock(), logger: silentLogger, detect, sourceTo };
    expect((await ownAddresses(parts, config)).addresses).toEqual([
      '/ip6/fd00::7/tcp/2',
      '/ip4/10.0.0.7/tcp/1',
      '/ip4/169.254.3.4/tcp/1',
    ]);
  });

  it('ownAddresses() are those that the operator chose', async () => {
    const { tell } = host(20);
    const announce = ['/ip4/192.0.2.1/tcp/7'];
    expect(await tell({ announce })).toEqual({ addresses: announce, announced: true });
    const listen = ['/ip4/10.0.0.5/tcp/19147'];
    expect(await tell({ listen })).toEqual({ addresses: listen, announced: true });
  });
});
