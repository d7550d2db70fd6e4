import { describe, expect, it } from 'vitest';
import { HostBook } from '../../../src/agent/cluster/host-book.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import type { PresenceRequest } from '../../../src/tree/presence.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { CountingMetrics } from '../../net/kit/transports.ts';

const [ROOT, OTHER, HOST] = [peerId('root'), peerId('other'), peerId('host')];
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function root(reach: () => Promise<void> = () => Promise.resolve()) {
  const clock = new ManualClock();
  const lines: string[] = [];
  const metrics = new CountingMetrics();
  const logger = { ...silentLogger, warn: (_: object, text: string) => void lines.push(text) };
  const self = { peer: ROOT, name: 'root', zone: 'z', address: '/ip4/10.0.0.1/tcp/1' };
  const book = new HostBook({ clock, logger, metrics, transport: { reach } }, { self: () => self });
  book.setRoots([ROOT]);
  const there = (of: Partial<PresenceRequest> = {}) =>
    book.answer(HOST, {
      host: { peer: HOST, addresses: ['/ip4/10.0.0.7/tcp/1'], zone: 'z', capacity: 5 },
      name: 'h1',
      run: 'a',
      roots: [ROOT],
      asked: [],
      ...of,
    });
  const pass = async (ms: number): Promise<void> => {
    await settle();
    clock.advance(ms);
    await settle();
  };
  return { clock, lines, metrics, book, self, there, pass };
}

describe('HostBook', () => {
  it('tells the names of the hosts that it knows, and its own', async () => {
    const { there, self, book } = root();
    const { names } = await there({ asked: [HOST, OTHER] });
    const host = { peer: HOST, name: 'h1', zone: 'z', address: '/ip4/10.0.0.7/tcp/1' };
    expect(names).toEqual([self, host]);
    expect(book.nameOf(HOST)).toEqual(host);
  });

  it('tells a host whether others can reach it', async () => {
    const well = root();
    expect((await well.there()).reach).toBe('unknown');
    await settle();
    expect((await well.there()).reach).toBe('reached');
    const lost = root(() => Promise.reject(new Error('no route')));
    await lost.there();
    await lost.pass(1_000);
    // One dial that failed says little.
    expect((await lost.there()).reach).toBe('unknown');
    await lost.pass(1_000);
    expect(await lost.there()).toMatchObject({
      reach: 'not-reached',
      tried: '/ip4/10.0.0.7/tcp/1: no route',
    });
  });

  it('takes a host for lost after two dials, and for reached after one', async () => {
    let isAway = false;
    const host = root(() => (isAway ? Promise.reject(new Error('away')) : Promise.resolve()));
    const word = async (ms: number): Promise<string> => {
      await host.pass(ms);
      await host.there();
      await host.pass(500);
      return (await host.there()).reach;
    };
    expect(await word(0)).toBe('reached');
    isAway = true;
    expect(await word(600_000)).toBe('reached');
    expect(await word(1_000)).toBe('not-reached');
    isAway = false;
    expect(await word(1_000)).toBe('not-reached');
    expect(await word(30_000)).toBe('reached');
  });

  it('tells two hosts of one identity from one that was restarted', async () => {
    const { there, lines } = root();
    for (const run of ['a', 'b', 'c', 'c']) expect((await there({ run })).twin).toBe('');
    expect(lines).toEqual([]);
    expect((await there({ run: 'b', name: 'h2' })).twin).toBe('h1 at /ip4/10.0.0.7/tcp/1');
    expect((await there({ run: 'c' })).twin).toBe('h2 at /ip4/10.0.0.7/tcp/1');
    expect(lines).toHaveLength(1);
  });

  it('names roots that it does not know, once its own configuration is complete', async () => {
    const { clock, there, lines, book } = root();
    const roots = [ROOT, OTHER];
    expect((await there({ roots })).strangers).toEqual([]);
    clock.advance(10_000);
    expect((await there({ roots })).strangers).toEqual([OTHER]);
    expect((await there({ roots })).strangers).toEqual([OTHER]);
    expect(lines).toHaveLength(1);
    book.setRoots(undefined);
    expect((await there({ roots })).strangers).toEqual([]);
    book.setRoots([ROOT, OTHER]);
    expect((await there({ roots })).strangers).toEqual([]);
  });
});
