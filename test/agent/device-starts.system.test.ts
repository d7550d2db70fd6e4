import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { parse, stringify } from 'yaml';
import { readTag } from '../../src/convert/oci-layout.ts';
import type { Manifest } from '../../src/image/manifest.ts';
import { OVERLAYBD_ANNOTATION } from '../../src/image/manifest.ts';
import { NO_TRACES, tracesOf } from '../device/kit/images.ts';
import { makeBusyboxImage } from '../kit/block-image.ts';
import { startAgentHost } from '../kit/device-host.ts';
import { startDeviceProcess } from '../kit/device-process.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { pushLayout } from '../kit/skopeo.ts';
import { atEndOfAll, tempFolder } from '../kit/temp-folder.ts';
import { field, labels, message, RawClient } from '../snapshotter/kit/raw-client.ts';

const CLI = fileURLToPath(new URL('../../bin/xylem.js', import.meta.url));
const WAIT = { timeout: 60_000, interval: 50 };
const [OK, ALREADY_EXISTS] = [0, 6];

/** What `xylem device` says and ends with, with other keys of its section. */
function failedStart(configFile: string, keys: Readonly<Record<string, string>>) {
  const config = parse(readFileSync(configFile, 'utf8')) as { device: object };
  const file = `${configFile}.failing`;
  writeFileSync(file, stringify({ ...config, device: { ...config.device, ...keys } }));
  const options = { timeout: 60_000, killSignal: 'SIGKILL', encoding: 'utf8' } as const;
  const { status, stderr } = spawnSync(
    process.execPath,
    [CLI, 'device', '--config', file],
    options,
  );
  return { status, stderr };
}

const NEEDS = [needs.root, needs.fuse, ...['skopeo', 'docker-registry'].map(needs.program)];

describeWith('a start of xylem device', NEEDS, () => {
  const atEnd = atEndOfAll();
  let registry: string;
  let manifest: Manifest;

  beforeAll(async () => {
    registry = await startDockerRegistry({}, atEnd);
    const layout = await makeBusyboxImage(tempFolder(atEnd), { a: Buffer.from('a') });
    await pushLayout(`${layout}:block`, `${registry}/app:1`);
    manifest = await readTag({ directory: layout, tag: 'block' });
  });

  test('waits for no device that cannot be read', async () => {
    const { host } = await startAgentHost(registry);
    const first = await startDeviceProcess(host);
    const { digest, size } = manifest.layers[0] ?? expect.fail('the image has a layer');
    const layer = labels(4, {
      'containerd.io/snapshot.ref': digest,
      'containerd.io/snapshot/cri.image-ref': `${registry}/app:1`,
      [`${OVERLAYBD_ANNOTATION}blob-digest`]: digest,
      [`${OVERLAYBD_ANNOTATION}blob-size`]: String(size),
    });
    const client = new RawClient(first.snapshotter);
    const pulled = await client.call('Prepare', message(field(1, 'xylem'), field(2, 'x'), layer));
    expect(pulled).toMatchObject({ status: ALREADY_EXISTS });
    const container = message(field(1, 'xylem'), field(2, 'ns/1/c'), field(3, digest));
    expect(await client.call('Prepare', container)).toMatchObject({ status: OK, text: 'OK' });
    client.close();
    first.keeper.kill('SIGKILL');
    await vi.waitFor(() => expect(first.servingPid()).toBe(0), WAIT);
    host.process.signal('SIGKILL');

    const next = await startDeviceProcess(host);
    const again = new RawClient(next.snapshotter);
    onTestFinished(() => again.close());
    const asked = await again.call('Stat', message(field(1, 'xylem'), field(2, 'ns/1/c')));
    expect(asked).toMatchObject({ status: OK });
    const log = (): string => readFileSync(next.logFile, 'utf8');
    const failed = 'cannot mount the device of a snapshot again';
    await vi.waitFor(() => expect(log()).toContain(failed), WAIT);
    expect(log().lastIndexOf('"msg":"ready"')).toBeLessThan(log().indexOf(failed));
    await next.stop();
    expect(tracesOf(next.stateDir)).toEqual(NO_TRACES);
  });

  test('that fails says why, and is the last', async () => {
    const { host } = await startAgentHost(registry);
    const device = await startDeviceProcess(host);
    device.keeper.kill('SIGHUP');
    const log = (): string => readFileSync(device.logFile, 'utf8');
    await vi.waitFor(() => expect(log().split('"msg":"ready"')).toHaveLength(3), WAIT);
    expect(log()).not.toMatch(/"level":"(warn|error)"(?!.*PR_SET_IO_FLUSHER)/);
    await device.stop();

    const inTheWay = createServer().listen(Number(new URL(device.admin).port), '127.0.0.1');
    await once(inTheWay, 'listening');
    const taken = failedStart(device.configFile, {});
    inTheWay.close();
    expect(taken.status).toBe(1);
    expect(taken.stderr).toContain('(device.adminListen): another process listens there');

    const nowhere = failedStart(device.configFile, { snapshotsDir: '/proc/xylem/snapshots' });
    expect(nowhere.status).toBe(1);
    const why = 'snapshots cannot be kept in /proc/xylem/snapshots (device.snapshotsDir): ENOENT';
    expect(nowhere.stderr).toContain(why);
    expect(nowhere.stderr).not.toContain('    at ');
  });
});
