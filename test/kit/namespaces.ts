import { execFileSync } from 'node:child_process';
import { onTestFinished } from 'vitest';
import type { HostPlace } from '../../src/demo/agent-cluster.ts';
import type { AtEnd } from './temp-folder.ts';

/** Hosts of a network, some of which cannot reach the registry. */
export interface Network {
  /** An address of this process for a registry. */
  readonly registry: string;
  readonly places: readonly HostPlace[];
}

function ip(...args: readonly string[]): void {
  execFileSync('ip', args, { stdio: 'pipe' });
}

/**
 * A bridge with a network namespace for each host, until the end: of the running test, if nothing
 * else is said.
 *
 *     this process: 10.213.N.1, and 10.213.N.2 for the registry
 *       -- bridge
 *       -- 10.213.N.10, .11, ...: one in each namespace
 *
 * Only the first `reaching` namespaces can reach the registry. `bitsPerSecond` bounds what comes to
 * each host, all together.
 */
export function makeNetwork(
  hosts: number,
  reaching: number,
  { bitsPerSecond, atEnd = onTestFinished }: { bitsPerSecond?: number; atEnd?: AtEnd } = {},
): Network {
  const id = process.pid % 10_000;
  const net = `10.213.${process.pid % 250}`;
  const bridge = `xylb${id}`;
  const names = Array.from({ length: hosts }, (_, i) => `xyl${id}-${i}`);
  atEnd(() => {
    // A namespace takes its end of a pair with it, and so the other end.
    for (const name of names) attempt('netns', 'del', name);
    attempt('link', 'del', bridge);
  });
  ip('link', 'add', bridge, 'type', 'bridge');
  for (const last of [1, 2]) ip('addr', 'add', `${net}.${last}/24`, 'dev', bridge);
  ip('link', 'set', bridge, 'up');
  const places = names.map((name, i) => {
    const address = `${net}.${10 + i}`;
    const outer = `xylv${id}-${i}`;
    ip('netns', 'add', name);
    ip('link', 'add', outer, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
    ip('link', 'set', outer, 'master', bridge, 'up');
    if (bitsPerSecond !== undefined) shape(outer, bitsPerSecond);
    ip('-n', name, 'addr', 'add', `${address}/24`, 'dev', 'eth0');
    for (const link of ['lo', 'eth0']) ip('-n', name, 'link', 'set', link, 'up');
    if (i >= reaching) ip('-n', name, 'route', 'add', 'blackhole', `${net}.2/32`);
    return { address, enter: ['nsenter', `--net=/run/netns/${name}`] };
  });
  return { registry: `${net}.2`, places };
}

/** Bounds what goes into a link: a token bucket with a queue of 50 ms. */
function shape(link: string, bitsPerSecond: number): void {
  const bucket = ['rate', `${bitsPerSecond}bit`, 'burst', '256kb', 'latency', '50ms'];
  execFileSync('tc', ['qdisc', 'add', 'dev', link, 'root', 'tbf', ...bucket], { stdio: 'pipe' });
}

function attempt(...args: readonly string[]): void {
  try {
    ip(...args);
  } catch {
    // The namespace was never made.
  }
}
