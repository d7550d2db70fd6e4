import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test, vi } from 'vitest';
import { stringify } from 'yaml';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { makeClusterFiles } from '../../src/agent/cluster/cluster-files.ts';
import type { HostPlace } from '../../src/demo/agent-cluster.ts';
import { startAgent, type AgentProcess } from '../../src/demo/processes.ts';
import { SystemRandom } from '../../src/runtime/node/random.ts';
import { FakeRegistry } from '../kit/fake-registry.ts';
import { makeNetwork } from '../kit/namespaces.ts';
import { RegistryProxy } from '../kit/registry-proxy.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const run = promisify(execFile);
const PORT = 19147;
const BLOB_BYTES = 9 * 2 ** 20;
const LOST = expect.stringContaining('others cannot reach this host') as string;
const WAIT = { timeout: 60_000, interval: 250 };

/** Runs a program in the namespace of a host. */
function inside(
  { enter: [command = '', ...args] }: HostPlace,
  ...program: readonly string[]
): void {
  execFileSync(command, [...args, ...program], { stdio: 'pipe' });
}

function netnsOf({ enter }: HostPlace): string {
  return enter.at(-1)?.split('/').at(-1) ?? '';
}

/** What a docker bridge, virtual addresses or several networks leave on a host. */
function addAddresses(place: HostPlace, count: number): void {
  inside(place, 'ip', 'link', 'add', 'docker0', 'type', 'bridge');
  inside(place, 'ip', 'link', 'set', 'docker0', 'up');
  inside(place, 'ip', 'addr', 'add', '172.17.0.1/16', 'dev', 'docker0');
  for (let i = 2; i < count; i++) {
    inside(place, 'ip', 'addr', 'add', `10.96.0.${i}/32`, 'dev', 'docker0');
  }
}

/** Puts a host behind a router that translates addresses, and forwards one port to it. */
function putBehind(router: HostPlace, host: HostPlace, port: number): void {
  inside(host, 'ip', 'link', 'del', 'eth0');
  const pair = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', netnsOf(host)];
  execFileSync('ip', ['link', 'add', 'inner0', 'netns', netnsOf(router), ...pair]);
  inside(router, 'ip', 'addr', 'add', '192.168.77.1/24', 'dev', 'inner0');
  inside(router, 'ip', 'link', 'set', 'inner0', 'up');
  inside(host, 'ip', 'addr', 'add', '192.168.77.2/24', 'dev', 'eth0');
  inside(host, 'ip', 'link', 'set', 'eth0', 'up');
  inside(host, 'ip', 'route', 'add', 'default', 'via', '192.168.77.1');
  inside(router, 'sysctl', '-qw', 'net.ipv4.ip_forward=1');
  const nat = (...rule: readonly string[]): void =>
    inside(router, 'iptables', '-t', 'nat', ...rule);
  nat('-A', 'POSTROUTING', '-o', 'eth0', '-j', 'MASQUERADE');
  const to = ['-j', 'DNAT', '--to-destination', `192.168.77.2:${PORT}`];
  nat('-A', 'PREROUTING', '-i', 'eth0', '-p', 'tcp', '--dport', String(port), ...to);
}

/** Agents with what an operator writes for them, and no more. */
async function agents(registry: string) {
  const dir = tempFolder();
  const keys = makeClusterFiles(
    { random: new SystemRandom() },
    { dir: join(dir, 'keys'), roots: 1, prefix: 'root' },
  );
  const start = async (
    name: string,
    place: HostPlace,
    config: Readonly<Record<string, unknown>>,
  ): Promise<AgentProcess> => {
    const home = join(dir, name);
    await mkdir(home);
    const keyFile = join(home, 'identity.key');
    const [root] = keys.roots;
    if (config['role'] === 'root' && root !== undefined) {
      await copyFile(root.keyFile, keyFile);
      await copyFile(root.certFile, join(home, 'root.cert'));
    } else await writeFile(keyFile, randomBytes(32).toString('hex'), { mode: 0o600 });
    const socket = join(home, 'admin', 'admin.sock');
    const configFile = join(home, 'agent.yaml');
    const text = stringify({
      identity: { keyFile },
      cluster: { keyFile: keys.clusterKey, rootsAuthority: keys.authorityPublic },
      store: { dir: join(home, 'store'), quota: '1GiB' },
      admin: { socket },
      registries: [{ host: registry, insecure: true }],
      ...config,
    });
    await writeFile(configFile, text);
    const logFile = join(home, 'agent.log');
    const agent = startAgent({ name, configFile, admin: '', socket, logFile, enter: place.enter });
    onTestFinished(() => agent.stop());
    return agent;
  };
  return { start };
}

async function readAt({ enter: [command = '', ...args] }: HostPlace, url: string): Promise<Buffer> {
  const get = ['curl', '-sf', '--max-time', '60', `http://127.0.0.1:19145/dadip2p/${url}`];
  const options = { encoding: 'buffer' as const, maxBuffer: 2 * BLOB_BYTES };
  return (await run(command, [...args, ...get], options)).stdout;
}

describeWith(
  'hosts with many addresses, behind a router, with IPv6 alone',
  [needs.root, ...['ip', 'nsenter', 'iptables', 'curl'].map(needs.program)],
  () => {
    test('every host gets places, and one that others cannot reach says so', async () => {
      const network = makeNetwork(7, 1);
      const [rootPlace, two, nine, forty, inner, six, router] = network.places as HostPlace[];
      const all = { rootPlace, two, nine, forty, inner, six, router };
      for (const [name, place] of Object.entries(all)) if (!place) throw new Error(name);
      const places = all as Record<keyof typeof all, HostPlace>;
      addAddresses(places.two, 2);
      addAddresses(places.nine, 9);
      addAddresses(places.forty, 40);
      for (const [i, place] of network.places.entries()) {
        const address = `fd00:213::${10 + i}/64`;
        inside(place, 'ip', '-6', 'addr', 'add', address, 'dev', 'eth0', 'nodad');
      }
      inside(places.six, 'ip', '-4', 'addr', 'flush', 'dev', 'eth0');
      putBehind(places.router, places.inner, 29_147);

      const registry = new FakeRegistry();
      await registry.start();
      onTestFinished(() => registry.stop());
      const proxy = await RegistryProxy.start(registry.address, { host: network.registry });
      const { start } = await agents(proxy.address);
      await start('root', places.rootPlace, { role: 'root' });
      const roots = [`/ip4/${places.rootPlace.address}/tcp/${PORT}`];
      const announce = [`/ip4/${places.router.address}/tcp/29147`];
      const children = await Promise.all([
        start('two', places.two, { roots }),
        start('nine', places.nine, { roots }),
        start('forty', places.forty, { roots }),
        start('inner', places.inner, { roots, p2p: { announce } }),
        start('six', places.six, { roots: [`/ip6/fd00:213::10/tcp/${PORT}`] }),
      ]);
      const at = [places.two, places.nine, places.forty, places.inner, places.six];
      for (const { socket, name } of children) {
        const status = () => askAgent({ admin: socket }, 'status');
        await vi.waitFor(async () => expect((await status()).state, name).toBe('ready'), WAIT);
      }

      const blob = registry.add(BLOB_BYTES);
      const url = `http://${proxy.address}${new URL(registry.url('team', blob)).pathname}`;
      for (const [i, place] of at.entries()) {
        expect((await readAt(place, url)).equals(blob.bytes), children[i]?.name).toBe(true);
      }
      for (const { socket, name } of children) {
        const { trees, hosts } = await askAgent({ admin: socket }, 'tree');
        expect(trees.length, name).toBeGreaterThan(0);
        for (const { path } of trees) expect(path.length, name).toBeGreaterThan(0);
        for (const { address } of hosts) expect(address, name).toMatch(/^\/ip[46]\//);
        const reached = async (): Promise<void> => {
          const { state, notices } = await askAgent({ admin: socket }, 'status');
          expect({ state, notices }, name).toEqual({ state: 'ready', notices: [] });
          expect(await askAgent({ admin: socket }, 'ready'), name).toEqual({ ready: true });
        };
        await vi.waitFor(reached, WAIT);
        const { bytesBySource } = await askAgent({ admin: socket }, 'status');
        expect(bytesBySource['fallback'] ?? 0, name).toBe(0);
      }

      await children[3]?.stop();
      const hidden = await start('hidden', places.inner, { roots });
      const says = async (): Promise<void> => {
        const { state, notReady } = await askAgent({ admin: hidden.socket }, 'status');
        expect({ state, notReady }).toEqual({ state: 'not ready', notReady: LOST });
        await expect(askAgent({ admin: hidden.socket }, 'ready')).rejects.toMatchObject({
          message: LOST,
          detail: { status: 503 },
        });
      };
      await vi.waitFor(says, WAIT);
      expect((await readAt(places.inner, url)).equals(blob.bytes)).toBe(true);
      const { trees } = await askAgent({ admin: hidden.socket }, 'tree');
      for (const { path, children: below } of trees) {
        expect(path.length).toBeGreaterThan(0);
        expect(below).toEqual([]);
      }
    });
  },
);
