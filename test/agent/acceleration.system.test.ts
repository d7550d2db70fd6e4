import { execFile } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { AdminError } from '../../src/agent/admin/errors.ts';
import { copyImage } from '../../src/convert/copy-image.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { RegistryPlace } from '../../src/convert/places/registry-place.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { hostPlatform } from '../../src/registry/platform.ts';
import { referrersTag } from '../../src/registry/referrers.ts';
import { defined } from '../../src/util/assert.ts';
import { SourceImages } from '../convert/kit/source-images.ts';
import { placeComponents } from '../convert/places/kit/components.ts';
import { Containerd } from '../kit/containerd.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { PushRegistry } from '../kit/push-registry.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { member } from '../kit/tar-encoder.ts';
import { makeTarImage } from '../kit/tar-image.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import {
  ARTIFACT_TYPE,
  digestAt,
  manifestAt,
  push,
  ready,
  referrersOf,
  set,
  startRoot,
  tagsOf,
  until,
  user,
  workFolder,
} from './kit/acceleration-rig.ts';
import { credentialsFile, hostsDirOf } from './kit/mirror-rig.ts';

const run = promisify(execFile);
const { signal } = new AbortController();

/** Runs the command; its output. Rejects with what it says when it fails. */
async function xylem(...args: readonly string[]): Promise<string> {
  const program = new URL('../../bin/xylem.js', import.meta.url).pathname;
  return (await run(process.execPath, [program, ...args])).stdout;
}

/** Names of the folders of conversions. */
function jobsIn(workDir: string): readonly string[] {
  return readdirSync(workDir).filter((name) => name.startsWith('job-'));
}

/** The process that was given a folder below this one. */
function processIn(workDir: string): number | undefined {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .map(Number)
    .find((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`${workDir}/job-`);
      } catch {
        return false;
      }
    });
}

function nicenessOf(pid: number): number {
  const [, fields = ''] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ');
  return Number(fields.split(' ')[16]);
}

describeWith(
  'the acceleration of images on a root, with docker-registry',
  ['docker-registry', 'skopeo', 'mke2fs', 'nice'].map(needs.program).concat(needs.root),
  () => {
    test('makes a block image a referrer of the original, and removes it again', async () => {
      const registry = await startDockerRegistry();
      const image = await push(registry, [3_000_000, 40_000]);
      const { root, workDir } = await startRoot({ registry });
      const reference = `docker://${registry}/team/app:1`;
      const begun = await set(root, { image: reference, accelerationType: 'Default' });
      expect(begun).toMatchObject({ image: `${registry}/team/app:1`, state: 'Preparing' });
      const found = await ready(root, reference);
      expect(found.ready).toMatchObject({ sourceDigest: image.digest });
      expect(found.ready?.seconds).toBeGreaterThan(0);
      const [made] = found.ready?.images ?? [];
      const listed = await referrersOf(registry, image.digest);
      expect(listed).toEqual([
        expect.objectContaining({ digest: made?.digest, artifactType: ARTIFACT_TYPE }),
      ]);
      const others = (await tagsOf(registry)).filter((tag) => !tag.startsWith('xylem-layer-'));
      expect(others.sort()).toEqual(['1', image.digest.replace(':', '-')]);
      expect(jobsIn(workDir)).toEqual([]);

      const ended = await set(root, { image: reference, accelerationType: 'None' });
      expect(ended.state).toBeUndefined();
      await until(root, reference, (each) => each === undefined);
      expect(await referrersOf(registry, image.digest)).toEqual([]);
    });

    test('converts in a process that ends with the agent, and begins anew', async () => {
      const registry = await startDockerRegistry();
      await push(registry, [60_000_000]);
      const { cluster, root, workDir } = await startRoot({ registry });
      const reference = `docker://${registry}/team/app:1`;
      await set(root, { image: reference });
      await until(root, reference, (each) => each?.progress !== undefined);
      const child = defined(processIn(workDir), 'a conversion runs');
      const status = readFileSync(`/proc/${child}/status`, 'utf8');
      expect(status).toMatch(/^Uid:\t65534\t65534\t65534\t65534$/m);
      expect(status).toMatch(/^Gid:\t65534\t65534\t65534\t65534$/m);
      expect(status).toMatch(/^Groups:\t\s*$/m);
      expect(status).toMatch(/^CapEff:\t0+$/m);
      expect(nicenessOf(child)).toBe(19);
      const folder = defined(jobsIn(workDir)[0], 'a job');
      expect(statSync(join(workDir, folder))).toMatchObject({ uid: 65534, mode: 0o40700 });

      root.process.signal('SIGKILL');
      while (existsSync(`/proc/${child}`)) await sleep(50);
      expect(readdirSync(join(workDir, folder)).sort()).toEqual(['agent.yaml']);
      await cluster.restart(root);
      await waitReady(root.process);
      await ready(root, reference);
      expect(jobsIn(workDir)).toEqual([]);
    });

    test('converts a tag anew that moved; the old version stays until then', async () => {
      const registry = await startDockerRegistry();
      const old = await push(registry, [200_000]);
      const { root } = await startRoot({ registry, acceleration: { tagSuffix: '-block' } });
      const reference = `docker://${registry}/team/app:1`;
      await set(root, { image: reference });
      const first = await ready(root, reference);
      const [oldBlocks] = first.ready?.images ?? [];
      expect(await digestAt(registry, '1-block')).toBe(oldBlocks?.digest);
      const next = await push(registry, [300_000]);
      const preparing = await until(root, reference, (each) => each?.state === 'Preparing');
      expect(preparing).toMatchObject({ sourceDigest: next.digest, ready: first.ready });
      expect(await digestAt(registry, '1-block')).toBe(oldBlocks?.digest);
      const second = await ready(root, reference);
      expect(second.ready?.sourceDigest).toBe(next.digest);
      expect(await digestAt(registry, '1-block')).toBe(second.ready?.images[0]?.digest);
      expect(await referrersOf(registry, old.digest)).toHaveLength(1);
    });

    test('gives by a moved tag what it stands for now, the old version by its digest', async () => {
      const registry = await startDockerRegistry();
      const old = await push(registry, [200_000]);
      const acceleration = { watchSeconds: 3600, tagSuffix: '-block' };
      const { root, cluster } = await startRoot({ registry, acceleration, children: 1 });
      const child = defined(cluster.children[0], 'a child');
      const reference = `docker://${registry}/team/app:1`;
      await set(root, { image: reference });
      const [oldBlocks] = (await ready(root, reference)).ready?.images ?? [];
      const oldDigest = defined(oldBlocks, 'a block image').digest;
      expect(await manifestAt(child, registry, '1', true)).toMatchObject({ digest: oldDigest });

      const tooLong = set(root, { image: `docker://${registry}/team/app:${'x'.repeat(126)}` });
      await expect(tooLong).rejects.toThrow(/"-block", the tag of .* is longer than/);

      const next = await push(registry, [300_000]);
      const digestOf = async (tag: string) => (await manifestAt(child, registry, tag, true)).digest;
      expect(await digestOf('1'), 'the original of the new version').toBe(next.digest);
      expect(await digestOf('1-block'), 'for clients that want the last that is ready').toBe(
        oldDigest,
      );
      const oldVersionIsThere = async (): Promise<void> => {
        for (const digest of [oldDigest, old.digest]) expect(await digestOf(digest)).toBe(digest);
        const manifest = await fetch(
          `${child.mirror}/v2/team/app/manifests/${oldDigest}?ns=${registry}`,
        );
        const { layers } = (await manifest.json()) as {
          layers: { digest: string; size: number }[];
        };
        for (const { digest, size } of layers) {
          const url = `${child.mirror}/v2/team/app/blobs/${digest}?ns=${registry}`;
          expect((await (await fetch(url)).arrayBuffer()).byteLength).toBe(size);
        }
      };
      await oldVersionIsThere();

      await set(root, { image: reference });
      const found = await until(root, reference, (each) => {
        return each?.state === 'Ready' && each.ready?.sourceDigest === next.digest;
      });
      expect(await digestOf('1')).toBe(found?.ready?.images[0]?.digest);
      expect(await digestOf('1-block')).toBe(found?.ready?.images[0]?.digest);
      await oldVersionIsThere();
    });

    test('says why it failed: no such image, no registry, no name of an image', async () => {
      const registry = await startDockerRegistry();
      const { root } = await startRoot({ registry });
      const missing = `docker://${registry}/team/none:1`;
      await set(root, { image: missing });
      const failed = await until(root, missing, (each) => each?.state === 'Failed');
      expect(failed).toMatchObject({ failures: 1, failure: { kind: 'reference' } });
      expect(failed?.nextMs).toBeGreaterThan(Date.now());
      const away = 'docker://127.0.0.1:1/team/app:1';
      await set(root, { image: away });
      const down = await until(root, away, (each) => each?.state === 'Failed');
      expect(down).toMatchObject({ failure: { kind: 'registry' } });
      for (const image of ['docker://x', `docker://${registry}/Team/app:1`]) {
        await expect(set(root, { image })).rejects.toMatchObject({ detail: { status: 400 } });
      }
      const byDigest = `docker://${registry}/team/app@sha256:${'0'.repeat(64)}`;
      await expect(set(root, { image: byDigest })).rejects.toThrow(/always gets the original/);
    });

    test('says that an image is for another platform, or converts it all the same', async () => {
      const registry = await startDockerRegistry();
      const { architecture: own } = hostPlatform();
      const architecture = own === 'arm64' ? 'amd64' : 'arm64';
      const images = new SourceImages();
      await images.put('1', [{ members: [member({ path: 'file' })] }], { architecture });
      const reference = `docker://${registry}/team/app:1`;
      const target = new RegistryPlace(placeComponents([registry]), reference);
      await copyImage(images.place('1'), target, { signal });
      const { root } = await startRoot({ registry });
      await set(root, { image: reference });
      const failed = await until(root, reference, (each) => each?.state === 'Failed');
      expect(failed?.failure).toMatchObject({ kind: 'image' });
      expect(failed?.failure?.reason).toContain(
        `is made for linux/${architecture}, not for linux/${own}; acceleration.allPlatforms makes`,
      );
      const { root: other } = await startRoot({ registry, acceleration: { allPlatforms: true } });
      await set(other, { image: reference });
      const found = await ready(other, reference);
      expect(found.ready?.images).toMatchObject([{ platform: `linux/${architecture}` }]);
    });

    test('says which folder its conversions may not pass through', async () => {
      const registry = await startDockerRegistry();
      await push(registry, [10_000]);
      const parent = tempFolder();
      chmodSync(parent, 0o700);
      const acceleration = { workDir: join(parent, 'work') };
      const { root } = await startRoot({ registry, acceleration });
      const reference = `docker://${registry}/team/app:1`;
      await set(root, { image: reference });
      const failed = await until(root, reference, (each) => each?.state === 'Failed');
      expect(failed?.failure).toMatchObject({ kind: 'disk' });
      expect(failed?.failure?.reason).toContain(`may not pass through ${parent}: let others pass`);
      chmodSync(parent, 0o711);
      await set(root, { image: reference });
      await ready(root, reference);
    });

    test('says that the disk is full, and is Ready once there is room', async () => {
      const registry = await startDockerRegistry();
      await push(registry, [8_000_000]);
      const workDir = workFolder();
      mkdirSync(workDir);
      await run('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', workDir]);
      onTestFinished(async () => void (await run('umount', ['-l', workDir])));
      const { root } = await startRoot({ registry, acceleration: { workDir } });
      const reference = `docker://${registry}/team/app:1`;
      await set(root, { image: reference });
      const failed = await until(root, reference, (each) => each?.state === 'Failed');
      expect(failed?.failure).toMatchObject({ kind: 'disk' });
      expect(failed?.failure?.reason).toMatch(/the disk is full; free some space/);
      expect(jobsIn(workDir)).toEqual([]);
      await run('mount', ['-o', 'remount,size=200m', workDir]);
      await set(root, { image: reference });
      await ready(root, reference);
    });

    describeWith('through mirrors', [needs.program('containerd')], () => {
      test('gives containerd the block image if it takes one, else the original', async () => {
        const registry = await startDockerRegistry();
        const image = await push(registry, [900_000, 40_000]);
        const { cluster, root } = await startRoot({ registry, children: 1 });
        const child = defined(cluster.children[0], 'a child');
        const name = `${registry}/team/app:1`;
        const opted = hostsDirOf(child, registry, true);
        const early = await Containerd.start(opted);
        await early.pull(name);
        expect(await early.content(), 'nothing is ready').toContain(image.digest);

        await set(root, { image: `docker://${name}` });
        const found = await ready(root, `docker://${name}`);
        const block = defined(found.ready?.images[0], 'a block image').digest;
        for (const host of [child, root]) {
          const plain = await Containerd.start(hostsDirOf(host, registry));
          await plain.pull(name);
          expect(await plain.content()).toContain(image.digest);
          expect(await plain.content()).not.toContain(block);
          const blocks = await Containerd.start(hostsDirOf(host, registry, true));
          await blocks.pull(name);
          expect(await blocks.content()).toContain(block);
          expect(await blocks.content()).not.toContain(image.digest);
          await blocks.pull(`${registry}/team/app@${image.digest}`);
          expect(await blocks.content()).toContain(image.digest);
        }

        const at = await manifestAt(child, registry, '1', true);
        expect(at).toMatchObject({ digest: block, vary: 'Xylem-Accept-Block-Images' });
        expect(await manifestAt(child, registry, '1', true, 'HEAD')).toMatchObject({
          ...{ digest: block, length: at.length, type: at.type },
        });
        expect(await manifestAt(child, registry, '1', false)).toMatchObject({
          digest: image.digest,
        });
        expect(await manifestAt(child, registry, image.digest, true)).toMatchObject({
          ...{ digest: image.digest, vary: null },
        });
        await set(root, { image: `docker://${name}`, accelerationType: 'None' });
        await until(root, `docker://${name}`, (each) => each === undefined);
        expect(await manifestAt(child, registry, '1', true)).toMatchObject({
          digest: image.digest,
        });
      });
    });

    test('lists it by the referrers API of a registry, and ends when that lets it', async () => {
      const registry = new PushRegistry({ listsReferrers: true, namesDigests: true });
      await registry.start();
      onTestFinished(() => registry.stop());
      const { address } = registry;
      const image = await makeTarImage([500_000]);
      const reference = `docker://${address}/team/app:1`;
      const components = placeComponents([address]);
      const place = new RegistryPlace(components, reference);
      const source = new LayoutPlace(components, `oci:${image.layout}:1`);
      await copyImage(source, place, { signal });
      const { root, cluster } = await startRoot({ registry: address, children: 1 });
      const child = defined(cluster.children[0], 'a child');
      await set(root, { image: reference });
      const found = await ready(root, reference);
      const block = defined(found.ready?.images[0], 'a block image').digest;
      const listed = async () =>
        (await place.referrers(image.digest, ARTIFACT_TYPE, signal)).map(({ digest }) => digest);
      expect(await listed()).toEqual([block]);
      expect(registry.manifests.has(`team/app ${referrersTag(image.digest)}`)).toBe(false);
      expect(await manifestAt(child, address, '1', true)).toMatchObject({ digest: block });

      registry.habits.deleteStatus = 405;
      await set(root, { image: reference, accelerationType: 'None' });
      const refused = await until(root, reference, (each) => each?.failure !== undefined);
      expect(refused?.failure?.reason).toMatch(/405/);
      expect(await listed()).toEqual([block]);
      expect(await manifestAt(child, address, '1', true)).toMatchObject({ digest: image.digest });
      registry.habits.deleteStatus = 202;
      await set(root, { image: reference, accelerationType: 'Default' });
      await ready(root, reference);
      await set(root, { image: reference, accelerationType: 'None' });
      await until(root, reference, (each) => each === undefined);
      expect(await listed()).toEqual([]);
    });

    test('is asked for by the command line, and counted', async () => {
      const registry = await startDockerRegistry();
      await push(registry, [70_000]);
      const { root } = await startRoot({ registry });
      const reference = `docker://${registry}/team/app:1`;
      const at = ['--admin', root.process.socket];
      const done = JSON.parse(await xylem('accelerate', '--wait', '--json', reference, ...at));
      expect(done).toMatchObject({ state: 'Ready', failures: 0 });
      const list = await xylem('accelerate', 'ls', ...at);
      expect(list).toMatch(/^\S+\/team\/app:1 {2}Ready: linux\/\S+ sha256:[0-9a-f]{64}\n/);
      expect(list).toMatch(/\nIn registries: 1 block image, 1 kept layer, [0-9.]+KiB\n$/);
      const metrics = await (await fetch(`${root.process.admin}/metrics`)).text();
      expect(metrics).toContain('xylem_conversions_total{result="ready"} 1');
      expect(metrics).toContain('xylem_accelerated_images{state="Ready"} 1');
      expect(metrics).toContain('xylem_conversion_seconds_count 1');
      const missing = xylem('accelerate', '--wait', `docker://${registry}/team/none:1`, ...at);
      await expect(missing).rejects.toThrow(/team\/none/);
      expect(await xylem('accelerate', '--none', reference, ...at)).toContain('no more');
      await until(root, reference, (each) => each === undefined);
    });

    describeWith('with passwords', [needs.program('htpasswd')], () => {
      test('uses the credentials of the root, and says when there are none', async () => {
        const registry = await startDockerRegistry({ htpasswd: user });
        await push(registry, [100_000], user);
        const reference = `docker://${registry}/team/app:1`;
        const { root: stranger } = await startRoot({ registry });
        await set(stranger, { image: reference });
        const failed = await until(stranger, reference, (each) => each?.state === 'Failed');
        expect(failed?.failure).toMatchObject({ kind: 'credentials' });
        expect(failed?.failure?.reason).toMatch(/registries\[\]\.credentialsFile/);
        const access = { credentialsFile: credentialsFile(user) };
        const { root } = await startRoot({ registry, access });
        await set(root, { image: reference });
        await ready(root, reference);
      });
    });

    test('refuses what it is not made for: a child, and a root that is not told to', async () => {
      const registry = await startDockerRegistry();
      const { cluster } = await startRoot({ registry, children: 1 });
      const [child] = cluster.children;
      const image = `docker://${registry}/team/app:1`;
      const asked = set(defined(child, 'a child'), { image });
      await expect(asked).rejects.toBeInstanceOf(AdminError);
      await expect(asked).rejects.toMatchObject({ detail: { status: 501 } });
    });
  },
);
