import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { createAgent } from '../../src/agent/agent.ts';
import { makeClusterFiles } from '../../src/agent/cluster/cluster-files.ts';
import { loadConfig } from '../../src/agent/config/config.ts';
import { encodeDigestList } from '../../src/blockstore/digest-list.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import type { Digest } from '../../src/image/digest.ts';
import { silentLogger, type Logger } from '../../src/runtime/logger.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { SystemRandom } from '../../src/runtime/node/random.ts';
import { MIB } from '../../src/util/bytes.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import { atEndOfAll, tempFolder, type AtEnd } from '../kit/temp-folder.ts';

/** What a power cut leaves of a file. */
const DAMAGES: Readonly<Record<string, (bytes: Buffer) => Buffer>> = {
  empty: () => Buffer.alloc(0),
  noise: (bytes) => randomBytes(Math.max(16, bytes.length)),
  zeros: (bytes) => Buffer.alloc(Math.max(16, bytes.length)),
  half: (bytes) => bytes.subarray(0, bytes.length / 2),
};

/** Files of a store that hold bytes of blobs, whose digests are checked at each read. */
const DATA = /\/data\.\d+$/;

const atEnd = atEndOfAll();
const registry = new FakeRegistry();
const other = registry.add(100);
let blob: FakeBlob;
let manifest: Digest;
let seed: string;
let agentFiles: readonly string[];

/** Runs an agent on the folder while `use` works; gives its log, warnings and errors alone. */
async function withAgent(dir: string, use: (mirror: string) => Promise<void>): Promise<string[]> {
  const lines: string[] = [];
  const note = (fields: object, message: string): void =>
    void lines.push(`${message} ${JSON.stringify(fields)}`);
  const logger: Logger = { ...silentLogger, warn: note, error: note, child: () => logger };
  const ports = await freePorts(3);
  const file = join(dir, 'agent.yaml');
  const config = {
    role: 'root',
    identity: { keyFile: join(dir, 'identity.key') },
    cluster: { keyFile: join(dir, 'cluster.key'), rootsAuthority: join(dir, 'roots.pub') },
    p2p: { listen: [`/ip4/127.0.0.1/tcp/${ports[0]}`] },
    store: { dir: join(dir, 'store') },
    local: { listen: `127.0.0.1:${ports[1]}` },
    admin: { listen: `127.0.0.1:${ports[2]}`, socket: 'none' },
    acceleration: { enabled: true, workDir: join(dir, 'work') },
    registries: [{ host: registry.address, insecure: true }],
  };
  writeFileSync(file, JSON.stringify(config));
  const components = { logger, clock: new SystemClock(), random: new SystemRandom() };
  const agent = await createAgent(loadConfig({ file }), components);
  try {
    await agent.start();
    await use(`http://127.0.0.1:${ports[1]}/v2/app`);
  } finally {
    await agent.stop();
  }
  return lines;
}

async function pull(mirror: string): Promise<void> {
  const accept = { accept: '*/*' };
  const ns = `ns=${registry.address}`;
  const image = await fetch(`${mirror}/manifests/1?${ns}`, { headers: accept });
  expect(image.status).toBe(200);
  expect(image.headers.get('docker-content-digest')).toBe(manifest);
  const layer = await fetch(`${mirror}/blobs/${blob.digest}?${ns}`);
  expect(layer.status).toBe(200);
  expect(Buffer.from(await layer.arrayBuffer()).equals(blob.bytes)).toBe(true);
}

/** A folder that conversions, which run as another user, may pass through. */
function openFolder(atEndOf?: AtEnd): string {
  const folder = tempFolder(atEndOf);
  chmodSync(folder, 0o711);
  return folder;
}

function copyOfSeed(): string {
  const dir = openFolder();
  cpSync(seed, dir, { recursive: true });
  return dir;
}

function damage(path: string, how: (bytes: Buffer) => Buffer): void {
  writeFileSync(path, how(readFileSync(path)));
}

beforeAll(async () => {
  await registry.start();
  atEnd(() => registry.stop());
  blob = registry.add(MIB);
  const layers = [
    {
      mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
      digest: blob.digest,
      size: blob.bytes.length,
    },
  ];
  manifest = registry.addManifest(
    '1',
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        config: {
          mediaType: 'application/vnd.oci.image.config.v1+json',
          digest: other.digest,
          size: other.bytes.length,
        },
        layers,
      }),
    ),
    'application/vnd.oci.image.manifest.v1+json',
  );
  seed = openFolder(atEnd);
  mkdirSync(join(seed, 'store'));
  const random = new SystemRandom();
  const keys = makeClusterFiles({ random }, { dir: join(seed, 'keys'), roots: 2, prefix: 'root' });
  const [own, second] = keys.roots;
  copyFileSync(own!.keyFile, join(seed, 'identity.key'));
  copyFileSync(own!.certFile, join(seed, 'root.cert'));
  copyFileSync(keys.clusterKey, join(seed, 'cluster.key'));
  copyFileSync(keys.authorityPublic, join(seed, 'roots.pub'));
  const certificate = readFileSync(second!.certFile, 'utf8').trim().split(' ')[2];
  const roots = [{ peer: second!.peer, certificate }];
  const verdicts = JSON.stringify({ writtenMs: Date.now(), verdicts: [] });
  const files = {
    public: `xylem-public 1 ${createHash('sha256').update(verdicts).digest('hex')}\n${verdicts}\n`,
    roots: JSON.stringify({ version: 1, roots }),
    pins: encodeDigestList([blob.digest, other.digest]),
    leases: encodeDigestList([blob.digest, other.digest]),
    distrusted: encodeDigestList([manifest, other.digest]),
    'acceleration.json': JSON.stringify({ version: 1, images: [], belongings: [] }),
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(seed, 'store', name), text);
  expect(await withAgent(seed, pull)).toEqual([]);
  agentFiles = readdirSync(join(seed, 'store'), { recursive: true })
    .map(String)
    .filter((name) => statSync(join(seed, 'store', name)).isFile())
    .toSorted();
}, 120_000);

const KINDS = Object.entries(DAMAGES);

describe("an agent after a power cut, of each file of the store's folder", () => {
  it('the agent of these tests has every file that an agent has', () => {
    const single = ['version', 'usage', 'pins', 'leases', 'distrusted', 'roots', 'public'];
    for (const name of [...single, 'acceleration.json']) expect(agentFiles).toContain(name);
    expect(agentFiles.filter((name) => name.startsWith('manifests/')).length).toBeGreaterThan(1);
    expect(agentFiles.some((name) => DATA.test(name))).toBe(true);
    expect(agentFiles.some((name) => name.endsWith('/records'))).toBe(true);
  });

  it.each(KINDS)(
    '%s: it starts, serves, says so once and heals',
    async (_, how) => {
      for (const name of agentFiles) {
        const dir = copyOfSeed();
        damage(join(dir, 'store', name), how);
        const lines = await withAgent(dir, pull);
        // Data is looked at when it is read.
        if (!DATA.test(name)) expect(lines.join('\n'), name).toContain(name);
        expect(await withAgent(dir, pull), `${name}, the next start`).toEqual([]);
      }
    },
    240_000,
  );

  it('all of them at once', async () => {
    for (const how of Object.values(DAMAGES)) {
      const dir = copyOfSeed();
      for (const name of agentFiles) damage(join(dir, 'store', name), how);
      await withAgent(dir, pull);
      expect(await withAgent(dir, pull)).toEqual([]);
    }
  }, 120_000);

  it('refuses what another release wrote, and changes nothing', async () => {
    const texts = { version: 'xylem-store 9\n', 'acceleration.json': '{"version":9}' };
    for (const [name, text] of Object.entries(texts)) {
      const dir = copyOfSeed();
      const path = join(dir, 'store', name);
      writeFileSync(path, text);
      await expect(withAgent(dir, pull)).rejects.toThrow(/use the (version|one) that wrote it/);
      expect(readFileSync(path, 'utf8')).toBe(text);
    }
  }, 60_000);
});

describe('an agent after a power cut, of its keys', () => {
  it.each(KINDS)('%s: it says what to do, and replaces nothing', async (_, how) => {
    const advice = {
      'identity.key': /identity.key is damaged.*restore it, or remove it/,
      'root.cert': /root.cert is no certificate.*xylem cluster init/,
      'roots.pub': /roots.pub .*holds no Ed25519 public key/,
    };
    for (const [name, text] of Object.entries(advice)) {
      const dir = copyOfSeed();
      damage(join(dir, name), how);
      const before = readFileSync(join(dir, name));
      await expect(withAgent(dir, pull)).rejects.toThrow(text);
      expect(readFileSync(join(dir, name)).equals(before)).toBe(true);
    }
  });

  it('a cluster key that is empty or zeros is refused', async () => {
    for (const how of [DAMAGES['empty']!, DAMAGES['zeros']!]) {
      const dir = copyOfSeed();
      damage(join(dir, 'cluster.key'), how);
      await expect(withAgent(dir, pull)).rejects.toThrow(/cluster\.key .*of another host/);
    }
  });
});
