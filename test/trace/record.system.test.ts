import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { findBlockImage, readShippedTrace } from '../../src/convert/block-image.ts';
import { CheckedLayers } from '../../src/convert/checked-layers.ts';
import { blobPath } from '../../src/convert/oci-layout.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { AgentCluster } from '../../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { BLOCK_SIZE_BYTES } from '../../src/image/block.ts';
import type { Digest } from '../../src/image/digest.ts';
import { openLayer } from '../../src/image/layer.ts';
import { blockLayers } from '../../src/image/manifest.ts';
import { parseTrace, type TraceAccess } from '../../src/image/trace.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import type { BlobReader } from '../../src/transfer/contracts/blob-reader.ts';
import { tracedBlocks } from '../../src/transfer/read/traced-blocks.ts';
import { defined } from '../../src/util/assert.ts';
import { NO_TRACES, tracesOf } from '../device/kit/images.ts';
import { makeBusyboxImage } from '../kit/block-image.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { codec } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const BIN = new URL('../../bin/xylem.js', import.meta.url).pathname;
const MIB = 2 ** 20;
const LIMIT = { timeout: 30_000, interval: 50 };
const { signal } = new AbortController();
const parts = { codec, hash: new NodeHash() };

/** Ends by SIGKILL alone. */
const forever = ['sh', '-c', 'trap "" TERM; while :; do sleep 1; done'];

let folder: string;
let layout: string;
let image: string;

/** Starts `xylem trace record`, with temporary files of its own; they must be gone at its end. */
function start(...args: readonly string[]) {
  const own = tempFolder();
  const child = spawn(process.execPath, [BIN, 'trace', 'record', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: own },
  });
  onTestFinished(() => void child.kill('SIGTERM'));
  const [out, err] = [text(child.stdout), text(child.stderr)];
  const ended = once(child, 'exit').then(async ([code, by]) => {
    // Output ends with the last process that holds it.
    const printed = { out: await out, err: await err };
    return { code: code as number | null, by: by as string | null, ...printed };
  });
  return { child, own, ended };
}

async function record(...args: readonly string[]) {
  const { own, ended } = start(...args);
  const result = await ended;
  expectNothingLeft(own);
  return result;
}

/** Nothing below this folder is mounted, lies behind a loop device, is a root, or is there. */
function expectNothingLeft(own: string): void {
  expect(tracesOf(own)).toEqual(NO_TRACES);
  expect(readdirSync(own)).toEqual([]);
  expect(commandsOf(own)).toEqual([]);
}

/** The processes in whose mounts there is this folder. */
function commandsOf(own: string): readonly string[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/mountinfo`, 'utf8').includes(own);
      } catch {
        return false; // It has ended.
      }
    });
}

/** The command line of a process. */
function lineOf(pid: string): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
}

function readTrace(path: string): readonly TraceAccess[] {
  return parseTrace(readFileSync(path), codec);
}

/** Where a file's bytes lie in the uncompressed bytes of the top layer. */
async function placeOf(bytes: Uint8Array): Promise<number> {
  const found = await findBlockImage(new LayoutPlace(parts, image), {
    platform: undefined,
    signal,
  });
  const layers = await CheckedLayers.open(parts, found, { folder, signal });
  const blob = defined(blockLayers(found.manifest)[1], 'the top layer');
  const layer = await openLayer(layers.source(blob), codec);
  const { body } = layer;
  for (let offset = 0; offset < body.sizeBytes; offset += 4096) {
    const head = new Uint8Array(Math.min(4096, body.sizeBytes - offset));
    const ranges: { at: number; data: Uint8Array }[] = [];
    body.visitRanges(offset, head.length, (at, length) => {
      ranges.push({ at, data: new Uint8Array(length) });
    });
    for (const range of ranges) {
      range.data.set(await layers.read(blob, range.at, range.data.length));
    }
    body.readInto(head, offset, (at, length) => {
      const range = ranges.find(
        (each) => each.at <= at && at + length <= each.at + each.data.length,
      );
      return range?.data.subarray(at - range.at, at - range.at + length);
    });
    if (Buffer.compare(head, bytes.subarray(0, head.length)) === 0) return offset;
  }
  throw new Error('the layer lacks the file');
}

/** Bytes of [offset, offset + length) of the top layer that the trace names. */
function named(accesses: readonly TraceAccess[], offset: number, length: number): number {
  return accesses
    .filter(({ layer }) => layer === 1)
    .map((each) => {
      const from = Math.max(offset, each.offset);
      return Math.max(0, Math.min(offset + length, each.offset + each.length) - from);
    })
    .reduce((sum, bytes) => sum + bytes, 0);
}

const NEEDS = [
  needs.root,
  needs.fuse,
  ...['unshare', 'setpriv', 'mke2fs', 'busybox'].map(needs.program),
];

const files = { read: randomBytes(2 * MIB), other: randomBytes(4 * MIB) };

describeWith('xylem trace record', NEEDS, () => {
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'xylem-test-'));
    layout = await makeBusyboxImage(folder, files);
    image = `oci:${layout}:block`;
  }, 60_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const runtimes = needs.program('runc')() === undefined ? ['runc', 'chroot'] : ['chroot'];
  test.each(runtimes)('by %s names what the command read, and nothing else', async (runtime) => {
    const out = join(tempFolder(), 'trace');
    const script =
      'id -u; pwd; touch /data/new /tmp/a; ls /proc/self/exe /dev/null; cat /data/read';
    const how = ['--runtime', runtime, '--json', '--out', out];
    const done = await record(...how, image, '--', 'sh', '-c', `${script} | cat > /dev/null; id`);
    expect(done).toMatchObject({ code: 0 });
    expect(done.err).toContain('uid=0');
    const accesses = readTrace(out);
    const facts = JSON.parse(done.out) as { readBytes: number };
    expect(facts).toMatchObject({ endedBy: 'exit', exitCode: 0, accessCount: accesses.length });
    // In each layer every byte once.
    for (const layer of [0, 1]) {
      const own = accesses.filter((each) => each.layer === layer);
      const sorted = own.toSorted((a, b) => a.offset - b.offset);
      for (const [i, { offset }] of sorted.entries()) {
        const before = sorted[i - 1] ?? { offset: 0, length: 0 };
        expect(offset).toBeGreaterThanOrEqual(before.offset + before.length);
      }
      expect(own.length).toBeGreaterThan(0);
    }
    const [read, other] = [await placeOf(files.read), await placeOf(files.other)];
    expect(named(accesses, read, files.read.length)).toBe(files.read.length);
    // The kernel reads ahead at the start of a file at most, and nobody opened this one.
    expect(named(accesses, other, files.other.length)).toBe(0);
    // The mount comes first: its superblock lies in the first block of the device.
    expect(accesses[0]?.offset).toBeLessThan(64 * 1024);
  });

  test('gives the exit code of a command that fails, and no trace', async () => {
    const out = join(tempFolder(), 'trace');
    const args = ['--json', '--out', out, image, '--', 'sh', '-c', 'exit 7'];
    const failed = await record(...args);
    expect(failed.code).toBe(7);
    expect(JSON.parse(failed.out)).toMatchObject({ exitCode: 7, code: 'command' });
    expect(existsSync(out)).toBe(false);
    expect((await record('--any-exit', ...args)).code).toBe(0);
    expect(readTrace(out).length).toBeGreaterThan(0);
  });

  test('says what is wrong before it mounts anything', async () => {
    for (const [args, code] of [
      [['--out', '/dev/null', image], 'command'],
      [['--out', '/dev/null', `oci:${layout}:plain`], 'manifest'],
    ] as const) {
      const done = await record('--json', ...args);
      expect(done.code).toBe(1);
      expect(JSON.parse(done.out)).toMatchObject({ code });
    }
  });

  test('stops a server once it answers, and ships the trace to a registry', async () => {
    const registry = await startDockerRegistry();
    const target = `docker://${registry}/app:traced`;
    const [port = 0] = await freePorts(1);
    const url = `http://127.0.0.1:${port}/read`;
    const server = ['httpd', '-f', '-p', `127.0.0.1:${port}`, '-h', '/data'];
    const run = (...command: readonly string[]): string =>
      execFileSync(process.execPath, [BIN, ...command], { encoding: 'utf8' });
    run('push', '--insecure', image, target);
    const args = ['--insecure', '--json', '--until-http', url, '--timeout', '60'];
    // Read by ranges, and put back in its own place.
    const done = await record(...args, '--push', target, target, '--', ...server);
    expect(done).toMatchObject({ code: 0 });
    expect(JSON.parse(done.out)).toMatchObject({ endedBy: 'answer', pushed: target });
    const svg = join(tempFolder(), 'trace.svg');
    const shown = JSON.parse(
      run('trace', 'show', '--insecure', '--json', '--svg', svg, target),
    ) as { accesses: unknown[]; layers: object[] };
    expect(shown.accesses.length).toBeGreaterThan(0);
    expect(shown.layers).toHaveLength(2);
    expect(readFileSync(svg, 'utf8')).toContain(`First reads of ${target}`);
    const facts = JSON.parse(run('inspect', '--insecure', '--json', target)) as object;
    expect(facts).toMatchObject({
      ...{ image: target, platform: 'linux/amd64', deviceBytes: 2 ** 30 },
      trace: { accessCount: shown.accesses.length },
      layers: [0, 1].map(() => ({
        chainId: expect.stringMatching(/^sha256:/),
        blockDigestsRoot: expect.stringMatching(/^[0-9a-f]{64}$/),
        wrappers: ['tar', 'zfile', 'lsmt'],
      })),
    });
    expect(run('inspect', '--insecure', target)).toMatch(/\nships +a trace of [0-9]+ reads /);
    const disks = [join(tempFolder(), 'whole'), join(tempFolder(), 'layers')] as const;
    const blobs = (facts as { layers: { digest: Digest }[] }).layers;
    run('flatten', '--insecure', '--out', disks[0], target);
    run('flatten', '--out', disks[1], ...blobs.map(({ digest }) => blobPath(layout, digest)));
    execFileSync('cmp', disks);
    const checked = JSON.parse(
      run('check', '--insecure', '--json', target, `oci:${layout}:plain`),
    ) as { isSound: boolean };
    expect(checked.isSound).toBe(true);
  });

  test('says so when a URL does not answer', async () => {
    const [port = 0] = await freePorts(1);
    const url = `http://127.0.0.1:${port}/`;
    const args = ['--json', '--out', '/dev/null', '--until-http', url, '--timeout', '0.5'];
    const done = await record(...args, image, '--', 'sleep', '100');
    expect(done.code).toBe(1);
    expect(JSON.parse(done.out)).toMatchObject({ code: 'no-answer' });
  });

  test.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)('leaves nothing after a %s', async (by) => {
    const { child, own, ended } = start(
      '--out',
      join(tempFolder(), 'trace'),
      image,
      '--',
      ...forever,
    );
    await vi.waitFor(() => expect(commandsOf(own).map(lineOf)).toContain(forever.join(' ')), LIMIT);
    child.kill(by);
    const done = await ended;
    if (by === 'SIGKILL') expect(done.by).toBe(by);
    else {
      const code = by === 'SIGINT' ? 130 : 143;
      expect(done).toMatchObject({ code, err: expect.stringContaining('interrupted') });
    }
    await vi.waitFor(() => expectNothingLeft(own), LIMIT);
  });

  test('follows no link of the image on the host', async () => {
    const [rootfs, victim] = [tempFolder(), tempFolder()];
    for (const name of ['etc', 'dev']) symlinkSync(victim, join(rootfs, name));
    const hostile = `oci:${layout}:hostile`;
    execFileSync(process.execPath, [BIN, 'convert', `dir:${rootfs}`, hostile]);
    const how = ['--json', '--runtime', 'chroot', '--out', '/dev/null'];
    const done = await record(...how, hostile, '--', '/x');
    expect(done.code).toBe(1);
    expect(JSON.parse(done.out)).toMatchObject({ code: 'failed' });
    expect(readdirSync(victim)).toEqual([]);
  });

  test('makes agents prefetch what it names, and no more', async () => {
    const target = `oci:${layout}:traced`;
    const script = ['sh', '-c', 'cat /data/read > /dev/null'];
    expect(await record('--push', target, image, '--', ...script)).toMatchObject({ code: 0 });
    const found = await findBlockImage(new LayoutPlace(parts, target), {
      platform: undefined,
      signal,
    });
    const trace = await readShippedTrace(codec, found, signal);
    expect(trace?.length).toBeGreaterThan(0);
    const registry = new EmbeddedRegistry({ layoutDir: layout, repository: 'app' });
    await registry.start();
    onTestFinished(() => registry.stop());
    const dir = tempFolder();
    const { address } = registry;
    const cluster = new AgentCluster({
      ...{ dir, roots: 1, children: 1, registry: address, devices: true },
    });
    onTestFinished(() => cluster.stop());
    await cluster.start();
    const child = defined(cluster.children[0], 'a child');
    const name = `docker://${address}/app:traced`;
    await askAgent({ admin: child.process.socket }, 'mount', { image: name, dir: child.mountDir });
    const { mounts } = await cluster.status(child);
    expect(mounts).toMatchObject([{ image: `${address}/app:traced`, dir: child.mountDir }]);
    const reader: BlobReader = {
      read: (blob, offset, length) => found.place.readPart(blob, { offset, length }, signal),
      readCached: () => undefined,
    };
    const planned = await tracedBlocks({ reader, codec }, found.manifest, signal);
    const layers = new Set<string>(blockLayers(found.manifest).map(({ digest }) => digest));
    const wanted = new Set(
      planned
        .filter(({ blob }) => layers.has(blob.digest))
        .map(({ blob, index }) => `${blob.digest} ${index}`),
    );
    const held = async (): Promise<ReadonlySet<string>> => {
      const blobs = await cluster.blobs(child);
      return new Set(
        blobs
          .filter(({ digest }) => layers.has(digest))
          .flatMap(({ digest, blocks }) =>
            blocks.flatMap(([first, count]) =>
              Array.from({ length: count }, (_, i) => `${digest} ${first + i}`),
            ),
          ),
      );
    };
    await expect.poll(held, LIMIT).toEqual(wanted);
    // Nothing read a file, and the file that no command read is not there.
    expect(wanted.size * BLOCK_SIZE_BYTES).toBeLessThan(5 * MIB);
    await askAgent({ admin: child.process.socket }, 'unmount', { dir: child.mountDir });
  });
});
