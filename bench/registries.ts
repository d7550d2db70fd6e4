import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AgentCluster } from '../src/demo/agent-cluster.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { CONFIG_MEDIA_TYPE, MANIFEST_MEDIA_TYPES } from '../src/image/manifest.ts';
import { defined } from '../src/util/assert.ts';
import { MIB } from '../src/util/bytes.ts';
import { Containerd } from '../test/kit/containerd.ts';
import { withEndings } from '../test/kit/endings.ts';
import { FakeRegistry, type FakeBlob } from '../test/kit/fake-registry.ts';
import { tempFolder } from '../test/kit/temp-folder.ts';
import { timed, verdict, type BenchRow } from './rows.ts';

const USER = 'robot:pass';
const BASIC = `Basic ${Buffer.from(USER).toString('base64')}`;
const TOKEN = 'of-the-token-server';

/** Goals of the project, next to the same straight from the registry. */
const CREDENTIALS_RATIO_MAX = 1.2;
const CREDENTIALS_SECONDS_MAX = 0.3;
const RANGELESS_RATIO_MAX = 1.3;

/** Pulls of each, of which the quickest counts; a pull is of an image that nobody has seen. */
const PULLS = { full: 3, smoke: 1 };

/** Of the cache without ranges, which fetches from afar. */
const RANGELESS_BYTES_PER_SECOND = 50e6;

const clock = new SystemClock();

interface Shape {
  readonly what: string;
  readonly layers: { readonly full: readonly number[]; readonly smoke: readonly number[] };
  /** Behaves so from then on. */
  readonly set: (registry: FakeRegistry) => void;
  readonly user?: string;
  readonly bytesPerSecond?: number;
  /** Longest of the mirror, for what straight takes, and how that reads. */
  readonly secondsMax: (straight: number) => number;
  readonly goal: string;
  /** Whether each layer is to cross the line once. */
  readonly isOnce: boolean;
}

/** Twelve layers, as images of applications have them. */
const TWELVE = [30, 12, 8, 4, 4, 2, 2, 1, 1, 0.5, 0.1, 0.01].map((mib) => Math.round(mib * MIB));

const SHAPES: readonly Shape[] = [
  ...(['Basic', 'token'] as const).map((kind) => ({
    what: `12 layers, credentials of the client alone (${kind})`,
    layers: { full: TWELVE, smoke: TWELVE.map(() => 1000) },
    set: kind === 'Basic' ? wantBasic : wantTokens,
    user: USER,
    secondsMax: (straight: number) => straight * CREDENTIALS_RATIO_MAX + CREDENTIALS_SECONDS_MAX,
    goal: `at most ${CREDENTIALS_RATIO_MAX} x straight and ${CREDENTIALS_SECONDS_MAX} s`,
    isOnce: false,
  })),
  ...[12, 200].map((mib) => ({
    what: `a layer of ${mib} MiB, no ranges`,
    layers: { full: [mib * MIB], smoke: [mib * 1000] },
    set: ignoreRanges,
    bytesPerSecond: RANGELESS_BYTES_PER_SECOND,
    secondsMax: (straight: number) => straight * RANGELESS_RATIO_MAX,
    goal: `at most ${RANGELESS_RATIO_MAX} x straight, one transfer`,
    isOnce: true,
  })),
];

/**
 * Pulls by the real containerd through the mirror of a host below one root, next to the same
 * straight, of registries that have something special.
 */
export async function benchRegistries(options: {
  readonly smoke: boolean;
  readonly only?: string | undefined;
  readonly onRow?: ((row: BenchRow) => void) | undefined;
}): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const { only = '' } = options;
  for (const shape of SHAPES.filter(({ what }) => what.includes(only))) {
    const row = await pullsOf(shape, options.smoke ? 'smoke' : 'full');
    rows.push(row);
    options.onRow?.(row);
  }
  return rows;
}

function pullsOf(shape: Shape, size: 'full' | 'smoke'): Promise<BenchRow> {
  return withEndings(async (atEnd) => {
    const { bytesPerSecond } = shape;
    const throttle = bytesPerSecond === undefined ? {} : { throttle: { clock, bytesPerSecond } };
    const registry = new FakeRegistry(throttle);
    shape.set(registry);
    await registry.start();
    atEnd(() => registry.stop());
    const { address } = registry;
    const cluster = new AgentCluster({
      ...{ dir: tempFolder(atEnd), roots: 1, children: 1, registry: address, devices: false },
    });
    atEnd(() => cluster.stop());
    await cluster.start();
    const { mirror } = defined(cluster.children[0], 'a child');
    const dirs = { straight: tempFolder(atEnd), mirror: tempFolder(atEnd) };
    const folder = join(dirs.mirror, address);
    mkdirSync(folder);
    writeFileSync(
      join(folder, 'hosts.toml'),
      `server = "http://${address}"\n[host."${mirror}"]\n  capabilities = ["pull", "resolve"]\n`,
    );
    const containerd = await Containerd.start(dirs.straight, { atEnd });
    const best = { straight: Infinity, mirror: Infinity };
    const sent = { straight: 0, mirror: 0 };
    const asked = { straight: 0, mirror: 0 };
    // The first through the mirror finds agents that have just started.
    for (let pull = size === 'full' ? -1 : 0; pull < PULLS[size]; pull++) {
      for (const way of ['straight', 'mirror'] as const) {
        const tag = addImage(registry, shape.layers[size]);
        const before = { bytes: registry.sentBytes, requests: registry.asked.length };
        const user = shape.user === undefined ? [] : ['--user', shape.user];
        const from = ['--hosts-dir', dirs[way], ...user, `${address}/team/app:${tag}`];
        const seconds = await timed(() => containerd.ctr(['content', 'fetch', ...from]));
        if (pull >= 0) best[way] = Math.min(best[way], seconds);
        sent[way] = registry.sentBytes - before.bytes;
        asked[way] = registry.asked.length - before.requests;
      }
    }
    const isOnce = sent.mirror <= sent.straight * 1.05 + 10_000;
    const isMet = best.mirror <= shape.secondsMax(best.straight) && (isOnce || !shape.isOnce);
    const note =
      `${best.mirror.toFixed(2)} s, straight ${best.straight.toFixed(2)} s; ` +
      `${asked.mirror} requests, straight ${asked.straight}; ` +
      `${(sent.mirror / sent.straight).toFixed(2)} x its bytes; ${verdict(isMet, shape.goal)}`;
    const value = best.mirror / best.straight;
    return { bench: 'registries', what: shape.what, value, unit: 'x straight', note };
  });
}

/** An image that nobody has seen; its tag. */
function addImage(registry: FakeRegistry, sizes: readonly number[]): string {
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  const part = (type: string, { digest, bytes }: FakeBlob): object => ({
    ...{ mediaType: type, digest, size: bytes.length },
  });
  const layers = sizes.map((sizeBytes) => registry.add(sizeBytes));
  const config = registry.addBlob(
    Buffer.from(
      JSON.stringify({
        ...{ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [] } },
        config: { Labels: { first: layers[0]?.digest } },
      }),
    ),
  );
  const manifest = {
    ...{ schemaVersion: 2, mediaType, config: part(CONFIG_MEDIA_TYPE, config) },
    layers: layers.map((each) => part('application/vnd.oci.image.layer.v1.tar+gzip', each)),
  };
  const tag = config.hex.slice(0, 12);
  registry.addManifest(tag, Buffer.from(JSON.stringify(manifest)));
  return tag;
}

function wantBasic(registry: FakeRegistry): void {
  registry.behaviours.set('', (request, response) => {
    if (request.headers.authorization === BASIC) return false;
    response.writeHead(401, { 'www-authenticate': 'Basic realm="bench"' }).end();
    return true;
  });
}

function wantTokens(registry: FakeRegistry): void {
  registry.behaviours.set('', (request, response) => {
    const { authorization } = request.headers;
    if (authorization === `Bearer ${TOKEN}`) return false;
    const isToken = request.url?.startsWith('/token') === true;
    if (isToken && authorization === BASIC) {
      response.end(JSON.stringify({ token: TOKEN }));
      return true;
    }
    const realm = `http://${registry.address}/token`;
    const scope = 'repository:team/app:pull';
    const challenge = `Bearer realm="${realm}",service="bench",scope="${scope}"`;
    response.writeHead(401, isToken ? {} : { 'www-authenticate': challenge }).end();
    return true;
  });
}

function ignoreRanges(registry: FakeRegistry): void {
  registry.behaviours.set('', (request) => {
    delete request.headers.range;
    return false;
  });
}
