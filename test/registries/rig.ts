import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { isFinal } from '../../src/preheat/messages.ts';
import { BLOCK_SIZE_BYTES } from '../../src/image/block.ts';
import { defined } from '../../src/util/assert.ts';
import { Containerd } from '../kit/containerd.ts';
import { withEndings } from '../kit/endings.ts';
import { tempFolder, type AtEnd } from '../kit/temp-folder.ts';
import type { ServerKind } from './kinds.ts';
import { readLazily } from './lazy-client.ts';
import type { Cell, Row } from './row.ts';
import { REPOSITORY, StandIn, TAG, USER } from './stand-in.ts';

/** A preheat that is not over by then is taken for one that never ends. */
const PREHEAT_MS_MAX = 80_000;
const PREHEAT_LOOK_MS = 20;

/** Most that a way may take, next to straight. */
const SLOWDOWN_MAX = 1.3;
const SLOWDOWN_MS_MAX = 500;

/** Prepares containerd, and returns what runs one kind of server. */
export async function rig(atEnd: AtEnd): Promise<(kind: ServerKind) => Promise<Row>> {
  const hostsDir = tempFolder(atEnd);
  const containerd = await Containerd.start(hostsDir, { atEnd });
  return (kind) =>
    withEndings((atRowEnd) => runKind(kind, { containerd, hostsDir, atEnd: atRowEnd }));
}

interface Rig {
  readonly containerd: Containerd;
  /** Where containerd finds hosts.toml. */
  readonly hostsDir: string;
  readonly atEnd: AtEnd;
}

async function runKind(kind: ServerKind, rig: Rig): Promise<Row> {
  const { atEnd, containerd, hostsDir } = rig;
  const start = async (): Promise<StandIn> => {
    const standIn = await StandIn.start(atEnd);
    kind.set(standIn);
    return standIn;
  };
  const [straightAt, lazyAt, mirrorAt, prefixAt, preheatAt] = await Promise.all([
    ...[start(), start(), start(), start(), start()],
  ] as const);
  const child = await startAgents(kind, [mirrorAt, prefixAt, preheatAt], atEnd);

  const straight = await measure('straight', straightAt, () =>
    fetchImage(containerd, hostsDir, kind, straightAt),
  );
  const hasCredentials = kind.clients !== undefined;
  const lazyStraight = await measure('lazy, straight', lazyAt, () =>
    readLazily(lazyAt, { base: '', hasCredentials }),
  );

  const folder = join(hostsDir, mirrorAt.host);
  mkdirSync(folder);
  writeFileSync(
    join(folder, 'hosts.toml'),
    `server = "http://${mirrorAt.host}"\n[host."${child.mirror}"]\n  capabilities = ["pull", "resolve"]\n`,
  );
  const mirror = await measure('mirror', mirrorAt, () =>
    fetchImage(containerd, hostsDir, kind, mirrorAt),
  );
  rmSync(folder, { recursive: true });
  const prefix = await measure('prefix', prefixAt, () =>
    readLazily(prefixAt, { base: `${child.local}/`, hasCredentials }),
  );
  const preheat = await measure('preheat', preheatAt, () => preheatImage(child, preheatAt));
  const past = mirrorAt.registry.asked
    .filter(({ client, url }) => client === 'containerd' && !url.startsWith('/token'))
    .map(({ method, url }) => `${method} ${url}`);
  return {
    kind: kind.name,
    seen: kind.seen,
    straight,
    lazyStraight,
    cells: [
      judged(
        past.length > 0
          ? { ...mirror, outcome: `${mirror.outcome}, ${past.length} past the agent` }
          : mirror,
        straight,
      ),
      judged(prefix, lazyStraight),
      judged(preheat, straight),
    ],
    past,
  };
}

/** The quicker of two measurements, way by way, straight included. */
export function quicker(first: Row, second: Row): Row {
  const best = (a: Cell, b: Cell | undefined): Cell =>
    b !== undefined && a.outcome === b.outcome && b.seconds < a.seconds ? b : a;
  const straight = best(first.straight, second.straight);
  const lazyStraight = best(first.lazyStraight, second.lazyStraight);
  const cells = first.cells.map((cell, i) =>
    judged(best(cell, second.cells[i]), cell.way === 'prefix' ? lazyStraight : straight),
  );
  return { ...first, straight, lazyStraight, cells };
}

/** The cell, with what is worse in it than straight. */
function judged({ worse: _, ...cell }: Cell, straight: Cell): Cell {
  const isGood = cell.outcome.startsWith('ok');
  const limit = straight.seconds * SLOWDOWN_MAX + SLOWDOWN_MS_MAX / 1000;
  if (straight.outcome === 'ok' && !isGood) return { ...cell, worse: 'fails' };
  const isBetter = isGood && straight.outcome !== 'ok';
  if (!isBetter && cell.seconds > limit) return { ...cell, worse: 'slower' };
  return cell;
}

async function measure(
  way: Cell['way'],
  standIn: StandIn,
  work: () => Promise<void>,
): Promise<Cell> {
  const before = standIn.requests;
  const startMs = performance.now();
  let outcome = 'ok';
  try {
    await work();
  } catch (error) {
    outcome = brief(error);
  }
  const seconds = (performance.now() - startMs) / 1000;
  const asked = standIn.askedSince(before, startMs);
  return { way, outcome, requests: asked.length, seconds, asked };
}

/** What the client was told: a status where there is one. */
function brief(error: unknown): string {
  if ((error as { readonly killed?: boolean }).killed === true) return 'not over';
  const text = error instanceof Error ? error.message : String(error);
  const last = text.trim().split('\n').at(-1) ?? '';
  const [status] = /\b[45]\d\d\b(?= [A-Z])/.exec(last) ?? [];
  if (status !== undefined) return status;
  if (/unexpected commit digest/.test(last)) return 'wrong bytes';
  return last
    .replace(/^.*: (?=[a-z])/, '')
    .replace(/sha256:[0-9a-f]+|127\.0\.0\.1:\d+/g, '...')
    .slice(0, 60);
}

/** Fetches all of the image as containerd does when it pulls. */
async function fetchImage(
  containerd: Containerd,
  hostsDir: string,
  kind: ServerKind,
  { host }: StandIn,
): Promise<void> {
  const user = kind.clients === undefined ? [] : ['--user', `${USER.username}:${USER.password}`];
  const reference = `${host}/${REPOSITORY}:${TAG}`;
  await containerd.ctr(['content', 'fetch', '--hosts-dir', hostsDir, ...user, reference]);
}

async function preheatImage(child: ClusterHost, { host, layers }: StandIn): Promise<void> {
  const place = { admin: child.process.socket };
  let job = await askAgent(place, 'preheat', {
    image: `docker://${host}/${REPOSITORY}:${TAG}`,
    part: 'image',
    pin: false,
  });
  const endMs = performance.now() + PREHEAT_MS_MAX;
  while (!isFinal(job.state)) {
    if (performance.now() > endMs) throw new Error('not over');
    await sleep(PREHEAT_LOOK_MS);
    job = await askAgent(place, 'preheatStatus', { id: job.id });
  }
  if (job.state !== 'done')
    throw new Error(`${job.failure}: ${job.hosts.map(({ failure }) => failure).join()}`);
  const held = await askAgent(place, 'blobs');
  for (const { digest, bytes } of layers) {
    const blob = held.blobs.find((entry) => entry.digest === digest);
    const count = blob?.blocks.reduce((sum, [, length]) => sum + length, 0) ?? 0;
    const all = Math.ceil(bytes.length / BLOCK_SIZE_BYTES);
    if (count !== all) throw new Error(`the child holds ${count} of ${all} blocks`);
  }
}

/** A root and a child that know the registries; returns the child. */
async function startAgents(
  kind: ServerKind,
  standIns: readonly StandIn[],
  atEnd: AtEnd,
): Promise<ClusterHost> {
  const dir = tempFolder(atEnd);
  const credentialsFile = join(dir, 'credentials');
  const password = kind.roots === 'wrong' ? 'wrong' : USER.password;
  writeFileSync(credentialsFile, `${USER.username}:${password}\n`, { mode: 0o600 });
  const registries = (role: string): object[] =>
    standIns.flatMap((standIn) => [
      {
        host: standIn.host,
        insecure: true,
        ...kind.entry?.(standIn),
        ...(role === 'root' && kind.roots !== undefined && { credentialsFile }),
      },
      ...(kind.isLed === true ? [{ host: standIn.storage.address, insecure: true }] : []),
    ]);
  const cluster = new AgentCluster({
    dir,
    roots: 1,
    children: 1,
    registry: defined(standIns[0], 'a registry').host,
    devices: false,
    config: (role) => ({ registries: registries(role) }),
  });
  atEnd(() => cluster.stop());
  await cluster.start();
  return defined(cluster.children[0], 'a child');
}
