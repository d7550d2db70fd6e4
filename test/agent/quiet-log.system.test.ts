import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import { MIB } from '../../src/util/bytes.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import { startServedCluster } from '../kit/served-cluster.ts';
import { tempFolder } from '../kit/temp-folder.ts';

/** Two looks for roots, which are 30 s apart, and all that agents do more often. */
const HEALTHY_MS = 70_000;

type Line = Readonly<Record<string, unknown>>;

/** Lines of a host's log from warnings on. */
function warnings({ process }: ClusterHost): readonly Line[] {
  const lines = readFileSync(process.logFile, 'utf8').split('\n').filter(Boolean);
  return lines
    .map((line) => JSON.parse(line) as Line)
    .filter(({ level }) => level === 'warn' || level === 'error');
}

/** Counters of the agent, with their labels. */
async function counters({ process }: ClusterHost): Promise<ReadonlyMap<string, number>> {
  const text = await (await fetch(`${process.admin}/metrics`)).text();
  const found = text.matchAll(/^(xylem_\w+_total(?:\{[^}]*\})?) (\S+)$/gm);
  return new Map(Array.from(found, ([, name = '', value]) => [name, Number(value)]));
}

function pull({ mirror }: ClusterHost, registry: string, { digest }: FakeBlob): Promise<Response> {
  return fetch(`${mirror}/v2/app/blobs/${digest}?ns=${registry}`);
}

describe('a healthy cluster', () => {
  it.each([
    ['address', 1],
    ['id', 2],
  ] as const)(
    'warns of nothing, its roots known by %s, %i of them, and has every counter from the start',
    async (rootsBy, roots) => {
      const registry = new FakeRegistry();
      const blobs = Array.from({ length: 6 }, () => registry.add(3 * MIB));
      const shape = { roots, children: 2, rootsBy } as const;
      const served = await startServedCluster([registry], () => shape);
      onTestFinished(() => served.stop());
      const { hosts, children } = served.cluster;
      // The hosts start at the same time: a child may be there before its root.
      const started = hosts.map((host) => warnings(host).length);
      const before = await Promise.all(hosts.map(counters));
      for (const blob of blobs) {
        for (const host of children) {
          const answer = await pull(host, registry.address, blob);
          expect(answer.status).toBe(200);
          expect(Buffer.from(await answer.arrayBuffer()).equals(blob.bytes)).toBe(true);
        }
        await new Promise((resolve) => setTimeout(resolve, HEALTHY_MS / blobs.length));
      }
      for (const [i, host] of hosts.entries()) {
        expect(warnings(host).slice(started[i]), host.name).toEqual([]);
        const after = await counters(host);
        expect([...after.keys()].filter((name) => !before[i]?.has(name))).toEqual([]);
        const moved = [...after].filter(([name, value]) => value !== before[i]?.get(name));
        expect(moved.length).toBeGreaterThan(0);
        expect(after.get('xylem_net_refused_total{reason="handshake"}')).toBe(0);
      }
    },
    180_000,
  );
});

describe('a root whose credentials do not open a repository', () => {
  async function start(credentials: string | undefined): Promise<{
    cluster: AgentCluster;
    registry: FakeRegistry;
    file: string;
  }> {
    const registry = new FakeRegistry();
    registry.behaviours.set('', (request, response) => {
      if (request.headers.authorization === 'Basic cmlnaHQ6cGFzcw==') return false;
      response.writeHead(401, { 'www-authenticate': 'Basic realm="registry"' }).end();
      return true;
    });
    const file = join(tempFolder(), 'credentials');
    writeFileSync(file, `${credentials}\n`, { mode: 0o600 });
    const served = await startServedCluster([registry], () => ({
      ...{ roots: 1, children: 1 },
      config: (role) => {
        const named = credentials !== undefined && role === 'root' && { credentialsFile: file };
        return { registries: [{ host: registry.address, insecure: true, ...named }] };
      },
    }));
    onTestFinished(() => served.stop());
    return { cluster: served.cluster, registry, file };
  }

  it.each([undefined, 'wrong:pass'])(
    '%s: it says so, with the file',
    async (credentials) => {
      const { cluster, registry, file } = await start(credentials);
      const [child] = cluster.children as [ClusterHost];
      for (let i = 0; i < 20; i++) {
        const answer = await pull(child, registry.address, registry.add(100_000));
        expect(answer.status).toBe(401);
        expect(await answer.text()).toContain('credentials');
      }
      const [root] = cluster.roots as [ClusterHost];
      const told = warnings(root).filter(({ repository }) => repository !== undefined);
      expect(told).toMatchObject([
        {
          registry: registry.address,
          repository: 'app',
          files: credentials === undefined ? [] : [file],
        },
      ]);
      // A flood is a few lines.
      expect(warnings(child).length).toBeLessThan(12);
    },
    120_000,
  );
});
