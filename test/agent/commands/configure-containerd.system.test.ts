import { execFile } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { DEFAULT_HOST } from '../../../src/agent/commands/containerd-folders.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const CLI = new URL('../../../bin/xylem.js', import.meta.url).pathname;
const REGISTRY = 'registry.example';

interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

function configure(...args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [CLI, 'configure-containerd', ...args], (error, out, err) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, out, err });
    });
  });
}

describe('xylem configure-containerd', () => {
  it('changes nothing with --dry-run, then writes, reports that, and undoes it', async () => {
    const dir = join(tempFolder(), 'certs.d');
    const args = ['--dir', dir, '--registry', REGISTRY, '--default', '--json'];
    const dry = await configure(...args, '--dry-run');
    expect(JSON.parse(dry.out)).toMatchObject({
      dryRun: true,
      changes: [
        { registry: REGISTRY, action: 'create' },
        { registry: DEFAULT_HOST, action: 'create' },
      ],
    });
    expect(existsSync(dir)).toBe(false);
    const done = JSON.parse((await configure(...args)).out) as { notes: string[] };
    expect(done.notes[0]).toContain('does not apply');
    expect(readdirSync(dir).sort()).toEqual([DEFAULT_HOST, REGISTRY]);
    const again = JSON.parse((await configure(...args)).out) as { changes: object[] };
    expect(again.changes).toMatchObject([{ action: 'none' }, { action: 'none' }]);
    const removed = await configure('--dir', dir, '--registry', REGISTRY, '--default', '--remove');
    expect(removed.out).toContain('removed');
    expect(readdirSync(dir)).toEqual([]);
  });

  it('refuses wrong usage, and a file that is not TOML, with a reason', async () => {
    const none = await configure();
    expect([none.code, none.err]).toEqual([
      2,
      expect.stringContaining('--default, or --snapshotter'),
    ]);
    expect((await configure('--registry', 'a/b')).err).toContain('HOST or HOST:PORT');
    expect((await configure('--default', '--mirror', 'ftp://x')).err).toContain('http[s]://');
    expect((await configure('--default', '--server', 'http://x')).err).toContain('one --registry');
    const dir = tempFolder();
    mkdirSync(join(dir, REGISTRY));
    writeFileSync(join(dir, REGISTRY, 'hosts.toml'), 'server =');
    const bad = await configure('--dir', dir, '--registry', REGISTRY);
    expect([bad.code, bad.err]).toEqual([1, expect.stringContaining('no file was changed')]);
    expect((await configure('--help')).out).toContain('Examples:');
  });

  it('tells with --check what a run would change and what is amiss', async () => {
    const folder = tempFolder();
    const [dir, file] = [join(folder, 'certs.d'), join(folder, 'config.toml')];
    const cri = '[plugins."io.containerd.grpc.v1.cri".registry';
    const right = `version = 2\n${cri}]\n  config_path = "${dir}"\n`;
    writeFileSync(file, `${right}${cri}.configs."${REGISTRY}".auth]\n  username = "u"\n`);
    const args = ['--dir', dir, '--registry', REGISTRY, '--containerd-config', file];
    const check = async () => {
      const { code, out } = await configure(...args, '--check', '--json');
      return { code, ...(JSON.parse(out) as object) };
    };
    const change = { registry: REGISTRY, action: 'create' };
    expect(await check()).toMatchObject({ code: 1, isSound: false, faults: [], changes: [change] });
    expect(existsSync(dir)).toBe(false);
    const run = await configure(...args);
    expect(run.out).toContain(`credentials for ${REGISTRY} in its configuration`);
    expect(await check()).toMatchObject({ code: 0, isSound: true, faults: [] });
    writeFileSync(file, `${right}${cri}.mirrors."a.example"]\n  endpoint = ["http://m"]\n`);
    const faults = [expect.stringContaining('First take these out')];
    expect(await check()).toMatchObject({ code: 1, isSound: false, faults });
    const more = await configure(...args.slice(0, 2), '--containerd-config', file, '--default');
    expect(more.out).toContain('with --registry a.example,');
    await configure(...args, '--registry', 'a.example');
    expect((await configure(...args)).out).toContain('hosts.toml of a.example has what they say');
    writeFileSync(file, 'no toml');
    expect((await configure(...args, '--remove')).out).toContain('removed');
    expect(existsSync(join(dir, REGISTRY))).toBe(false);
  });

  it('heeds each file once, where links lead from several registries to one', async () => {
    const dir = tempFolder();
    mkdirSync(join(dir, REGISTRY));
    const file = join(dir, REGISTRY, 'hosts.toml');
    writeFileSync(file, '[host."http://a.example"]');
    symlinkSync(REGISTRY, join(dir, 'other.example'));
    const args = ['--dir', dir, '--registry', REGISTRY, '--registry', 'other.example'];
    expect((await configure(...args)).out).toContain(`the same file as ${file}`);
    await configure(...args, '--remove');
    expect(readFileSync(file, 'utf8')).toBe('[host."http://a.example"]');
    expect(readdirSync(dirname(file))).toEqual(['hosts.toml']);
  });

  it("makes xylem device containerd's snapshotter, says what is left, and undoes it", async () => {
    const folder = tempFolder();
    const [file, socket] = [join(folder, 'config.toml'), join(folder, 'sock')];
    const text = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\n  x = "y"\n';
    writeFileSync(file, text);
    const args = ['--snapshotter', '--containerd-config', file, '--socket', socket];
    const dry = await configure(...args, '--dry-run');
    expect(dry.out).toContain(`${file}: would be changed`);
    expect(dry.out).toContain('    [proxy_plugins.xylem]');
    expect(readFileSync(file, 'utf8')).toBe(text);
    const done = await configure(...args);
    expect(done.out).toContain('changed, the old one is');
    expect(done.out).toContain('start `xylem device` first; then restart containerd');
    expect(readFileSync(file, 'utf8')).toContain('snapshotter = "xylem"');
    expect((await configure(...args)).out).toBe(`${file}: unchanged\n`);
    const blocks = [...args, '--dir', join(folder, 'certs.d'), '--default', '--block-images'];
    expect((await configure(...blocks)).err).toContain('nobody listens at');
    const server = createServer().listen(socket);
    onTestFinished(() => void server.close());
    await once(server, 'listening');
    expect((await configure(...blocks)).code).toBe(0);
    const removed = await configure(...args, '--remove');
    expect(removed.out).toContain('restored to its earlier contents');
    expect(readFileSync(file, 'utf8')).toBe(text);
  });

  it('asks for block images only where the snapshotter that mounts them runs', async () => {
    const folder = tempFolder();
    const [dir, file, socket] = ['certs.d', 'config.toml', 'sock'].map((name) =>
      join(folder, name),
    );
    const args = ['--dir', dir ?? '', '--registry', REGISTRY, '--block-images'];
    const all = [...args, '--containerd-config', file ?? ''];
    writeFileSync(file ?? '', 'version = 2\n');
    const none = await configure(...all);
    expect([none.code, none.err]).toEqual([
      1,
      expect.stringContaining('no [proxy_plugins.xylem] or [proxy_plugins.over'),
    ]);
    const plugin = `[proxy_plugins.overlaybd]\n  type = "snapshot"\n  address = "${socket}"\n`;
    writeFileSync(file ?? '', plugin);
    const silent = await configure(...all);
    expect([silent.code, silent.err]).toEqual([1, expect.stringContaining('nobody listens at')]);
    expect(existsSync(dir ?? '')).toBe(false);
    const server = createServer().listen(socket);
    onTestFinished(() => void server.close());
    await once(server, 'listening');
    expect((await configure(...all)).code).toBe(0);
    const text = readFileSync(join(dir ?? '', REGISTRY, 'hosts.toml'), 'utf8');
    expect(text).toContain(
      '[host."http://127.0.0.1:19145".header]\n    Xylem-Accept-Block-Images = "yes"\n',
    );
    await configure('--dir', dir ?? '', '--registry', REGISTRY);
    const plain = readFileSync(join(dir ?? '', REGISTRY, 'hosts.toml'), 'utf8');
    expect(plain).not.toContain('header');
  });
});
