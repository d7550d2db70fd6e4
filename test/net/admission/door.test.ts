import type { Connection, MultiaddrConnection } from '@libp2p/interface';
import { multiaddr } from '@multiformats/multiaddr';
import { describe, expect, it } from 'vitest';
import { Door } from '../../../src/net/admission/door.ts';
import { peerIdOf } from '../../../src/net/node/identity.ts';
import {
  ADDRESS_FAILURES_MAX,
  IDENTITIES_PER_ADDRESS_MAX,
  NETWORK_FAILURES_MAX,
  UNADMITTED_MAX,
  UNADMITTED_PER_ADDRESS_MAX,
  UNADMITTED_PER_NETWORK_MAX,
} from '../../../src/net/limits.ts';
import { netMetrics } from '../../../src/net/metrics.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { identity } from '../../kit/identity.ts';
import { CountingMetrics } from '../kit/transports.ts';
import { peerId } from '../../../src/util/peer-id.ts';

const PEER = peerIdOf(identity(9));

/** What the door looks at of a socket. */
class FakeSocket extends EventTarget {
  readonly status = 'open';
  readonly timeline = { open: 0 };
  readonly remoteAddr;

  constructor(address: string) {
    super();
    this.remoteAddr = multiaddr(`/${address.includes(':') ? 'ip6' : 'ip4'}/${address}/tcp/1000`);
  }

  close(): void {
    this.dispatchEvent(new Event('close'));
  }
}

function open(): {
  door: Door;
  metrics: CountingMetrics;
  enter: (address: string) => FakeSocket | undefined;
} {
  const metrics = new CountingMetrics();
  const components = { clock: new ManualClock(), logger: silentLogger };
  const door = new Door({ ...components, metrics: netMetrics(metrics) });
  const enter = (address: string): FakeSocket | undefined => {
    const socket = new FakeSocket(address);
    const denied = door.gater.denyInboundConnection?.(socket as unknown as MultiaddrConnection);
    return denied === true ? undefined : socket;
  };
  return { door, metrics, enter };
}

describe('Door', () => {
  it('Door bounds strangers by address, and frees a place when one is admitted or leaves', () => {
    const { door, metrics, enter } = open();
    const inside = Array.from({ length: UNADMITTED_PER_ADDRESS_MAX }, () => enter('10.0.0.1'));
    expect(inside).not.toContain(undefined);
    expect(enter('10.0.0.1')).toBe(undefined);
    expect(enter('10.0.0.2')).toBeDefined();
    door.admit({ timeline: inside[0]?.timeline } as unknown as Connection, PEER);
    expect(enter('10.0.0.1')).toBeDefined();
    expect(enter('10.0.0.1')).toBe(undefined);
    inside[1]?.close();
    expect(enter('10.0.0.1')).toBeDefined();
    expect(metrics.values.get('xylem_admission_total{result=refused}')).toBe(2);
  });

  it('Door bounds the strangers of all addresses', () => {
    const { enter } = open();
    for (let i = 0; i < UNADMITTED_MAX; i++)
      expect(enter(`10.0.${i >> 8}.${i & 255}`)).toBeDefined();
    expect(enter('10.1.0.1')).toBe(undefined);
  });

  it('Door bounds the strangers of one /64 of IPv6, whatever addresses they use', () => {
    const { enter } = open();
    for (let i = 0; i < UNADMITTED_PER_NETWORK_MAX; i++) {
      expect(enter(`2001:db8:1:2::${i.toString(16)}`)).toBeDefined();
    }
    expect(enter('2001:db8:1:2:ffff::1')).toBe(undefined);
    expect(enter('2001:db8:1:3::1')).toBeDefined();
    expect(enter('10.0.0.1')).toBeDefined();
  });

  it('Door turns a /64 away whose addresses failed in turn, unless one was admitted', () => {
    const { door, enter } = open();
    for (let i = 0; i <= NETWORK_FAILURES_MAX; i++) {
      enter(`2001:db8:1:2::${i.toString(16)}`)?.close();
      enter(`2001:db8:1:3::${i.toString(16)}`)?.close();
      if (i !== NETWORK_FAILURES_MAX - 1) continue;
      const good = enter('2001:db8:1:3::ffff');
      expect(door.admit({ timeline: good?.timeline } as unknown as Connection, PEER)).toBe(true);
    }
    expect(enter('2001:db8:1:2::ffff')).toBe(undefined);
    expect(enter('2001:db8:1:3::fffe')).toBeDefined();
  });

  it('Door admits 256 identities of one address, any number of connections of each, and others as they go', () => {
    const { door, enter } = open();
    const inside: Connection[] = [];
    const admit = (address: string, peer: string): boolean => {
      const connection = { timeline: enter(address)?.timeline } as unknown as Connection;
      inside.push(connection);
      return door.admit(connection, peerId(peer));
    };
    for (let i = 0; i < IDENTITIES_PER_ADDRESS_MAX; i++) {
      expect(admit('10.0.0.1', `host-${i}`)).toBe(true);
    }
    expect(admit('10.0.0.1', 'host-0')).toBe(true);
    expect(admit('10.0.0.1', 'one too many')).toBe(false);
    expect(admit('10.0.0.2', 'one too many')).toBe(true);
    // It has two connections.
    door.part(inside[0] as Connection, peerId('host-0'));
    expect(admit('10.0.0.1', 'another')).toBe(false);
    door.part(inside[1] as Connection, peerId('host-1'));
    expect(admit('10.0.0.1', 'another')).toBe(true);
  });

  it('Door turns an address away after too many that left as strangers, unless one was admitted', () => {
    const { door, enter } = open();
    for (let i = 0; i < ADDRESS_FAILURES_MAX; i++) {
      enter('10.0.0.1')?.close();
      enter('10.0.0.2')?.close();
    }
    const good = enter('10.0.0.2');
    door.admit({ timeline: good?.timeline } as unknown as Connection, PEER);
    good?.close();
    for (const address of ['10.0.0.1', '10.0.0.2']) enter(address)?.close();
    expect(enter('10.0.0.1')).toBe(undefined);
    expect(enter('10.0.0.2')).toBeDefined();
  });
});
