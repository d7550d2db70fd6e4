import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AgentCluster } from '../src/demo/agent-cluster.ts';
import { MANIFEST_MEDIA_TYPES } from '../src/image/manifest.ts';
import { MIB } from '../src/util/bytes.ts';
import { FakeRegistry } from '../test/kit/fake-registry.ts';
import { verdict, type BenchRow } from './rows.ts';

const LAYERS = [9 * MIB, 5 * MIB, MIB];

/** Goals of the project: how much slower a pull through the mirror is than one without it. */
const AWAY_MS_MAX = 1_000;
const JUST_SILENT_MS_MAX = 3_000;

/** For an agent to find out that a root is back, or gone. */
const SETTLE_MS = 6_000;

/**
 * Pulls of new images through the mirror of a host whose only root is there, has just stopped
 * without a word (SIGSTOP), is known to be silent, refuses connections, and was never found.
 */
export async function benchAway(): Promise<BenchRow[]> {
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const registry = new FakeRegistry();
  await registry.start();
  const cluster = new AgentCluster({
    dir,
    roots: 1,
    children: 1,
    registry: registry.address,
    devices: false,
  });
  const rows: BenchRow[] = [];
  try {
    await cluster.start();
    const [root, host] = cluster.hosts;
    if (root === undefined || host === undefined) throw new Error('a root and a host');
    const pull = async (what: string, msMax?: number): Promise<void> => {
      const mirrorMs = await pullMs(registry, host.mirror, `?ns=${registry.address}`);
      const straightMs = await pullMs(registry, `http://${registry.address}`, '');
      const value = Math.max(0, mirrorMs - straightMs);
      const goal = msMax === undefined ? '' : `; ${verdict(value <= msMax, `at most ${msMax} ms`)}`;
      const note = `${mirrorMs.toFixed(0)} ms, straight ${straightMs.toFixed(0)} ms${goal}`;
      rows.push({ bench: 'away', what: `${what}, slower than straight`, value, unit: 'ms', note });
    };
    // Agents that have just started run interpreted code.
    await pullMs(registry, host.mirror, `?ns=${registry.address}`);
    await pull('root there');
    root.process.signal('SIGSTOP');
    await pull('root just silent', JUST_SILENT_MS_MAX);
    await pull('root known to be silent', AWAY_MS_MAX);
    await sleep(2 * SETTLE_MS);
    await pull('root silent for long', AWAY_MS_MAX);
    root.process.signal('SIGCONT');
    await sleep(SETTLE_MS);
    await pull('root back', AWAY_MS_MAX);
    await root.process.stop();
    await pull('root refuses', AWAY_MS_MAX);
    await cluster.restart(host);
    while (!(await fetch(`${host.mirror}/v2/`).catch(() => undefined))) await sleep(100);
    await sleep(SETTLE_MS);
    await pull('root never found, first pull', AWAY_MS_MAX);
    await pull('root never found', AWAY_MS_MAX);
    return rows;
  } finally {
    await cluster.stop();
    await registry.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

/** What containerd asks for an image: the tag, the manifest, the config, then all layers. */
async function pullMs(registry: FakeRegistry, base: string, query: string): Promise<number> {
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  const config = registry.add(2_000);
  const layers = LAYERS.map((sizeBytes) => registry.add(sizeBytes));
  const parts = [config, ...layers].map(({ digest, bytes }) => ({
    mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
    digest,
    size: bytes.length,
  }));
  const image = { schemaVersion: 2, mediaType, config: parts[0], layers: parts.slice(1) };
  const tag = `t${config.digest.slice(-12)}`;
  const digest = registry.addManifest(tag, Buffer.from(JSON.stringify(image)));
  const get = async (path: string, method = 'GET'): Promise<void> => {
    const url = `${base}/v2/team/app/${path}${query}`;
    const response = await fetch(url, { method, headers: { accept: mediaType } });
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
  };
  const startedMs = performance.now();
  await get(`manifests/${tag}`, 'HEAD');
  await get(`manifests/${digest}`);
  await get(`blobs/${config.digest}`);
  await Promise.all(layers.map((layer) => get(`blobs/${layer.digest}`)));
  return performance.now() - startedMs;
}
