import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentCluster } from '../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../src/demo/embedded-registry.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { assert } from '../src/util/assert.ts';
import { MIB } from '../src/util/bytes.ts';
import type { BenchRow } from './rows.ts';

const BLOB_BYTES = { full: 48 * MIB, smoke: 4 * MIB };
const RATE_BYTES = { full: 4 * MIB, smoke: 64 * MIB };

const REPOSITORY = 'bench';
const clock = new SystemClock();

/**
 * Measures how fast one child reads a blob from one root, without limits and with a limit on either
 * side.
 */
export async function benchLimits(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  const rate = RATE_BYTES[size];
  const perSecond = `${rate / MIB} MiB/s`;
  const rows: BenchRow[] = [];
  for (const [what, limits] of [
    ['no limit', {}],
    [`upload limit of the root ${perSecond}`, { root: { uploadBytesPerSecond: rate } }],
    [`download limit of the child ${perSecond}`, { child: { downloadBytesPerSecond: rate } }],
  ] as const) {
    const value = await speed(BLOB_BYTES[size], limits);
    rows.push({ bench: 'limits', what, value, unit: 'MiB/s' });
  }
  return rows;
}

/** MiB per second of a blob that neither agent has yet. */
async function speed(
  sizeBytes: number,
  limits: { readonly root?: object; readonly child?: object },
): Promise<number> {
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const layoutDir = join(dir, 'oci');
  const registry = new EmbeddedRegistry({ layoutDir, repository: REPOSITORY });
  let cluster: AgentCluster | undefined;
  try {
    const bytes = randomBytes(sizeBytes);
    const hex = createHash('sha256').update(bytes).digest('hex');
    await mkdir(join(layoutDir, 'blobs', 'sha256'), { recursive: true });
    await writeFile(join(layoutDir, 'blobs', 'sha256', hex), bytes);
    await registry.start();
    const init = { dir, roots: 1, children: 1, devices: false };
    cluster = new AgentCluster({ ...init, registry: registry.address, limits });
    await cluster.start();
    const [child] = cluster.children;
    assert(child !== undefined, 'there is a child');
    const url = `http://${registry.address}/v2/${REPOSITORY}/blobs/sha256:${hex}`;
    const beforeMs = clock.nowMs();
    const response = await fetch(`${child.local}/${url}`);
    const got = Buffer.from(await response.arrayBuffer());
    const seconds = (clock.nowMs() - beforeMs) / 1000;
    assert(got.equals(bytes), `the child gave ${response.status} and other bytes`);
    return sizeBytes / MIB / seconds;
  } finally {
    await cluster?.stop();
    await registry.stop();
    await rm(dir, { recursive: true, force: true });
  }
}
