import type { Connection, MultiaddrConnection } from '@libp2p/interface';
import { multiaddr } from '@multiformats/multiaddr';
import { describe, expect, it } from 'vitest';
import { Door } from '../../../src/net/admission/door.ts';
import { peerIdOf } from '../../../src/net/node/identity.ts';
import {
  ADDRESS_FAILURES_MAX,
  UNADMITTED_MAX,
  UNADMITTED_PER_ADDRESS_MAX,
} from '../../../src/net/limits.ts';
import { netMetrics } from '../../../src/net/metrics.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { identity } from '../../kit/identity.ts';
import { CountingMetrics } from '../kit/transports.ts';

const PEER = peerIdOf(identity(9));

/** What the door looks at of a socket. */
class FakeSocket extends EventTarget {
  readonly status = 'open';
  readonly timeline = { open: 0 };
  readonly remoteAddr;

  constructor(address: string) {
    super();
    this.remoteAddr = multiaddr(`/ip4/${address}/tcp/1000`);
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

  it('Door turns an address away after too many left as strangers, unless one was admitted', () => {
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
