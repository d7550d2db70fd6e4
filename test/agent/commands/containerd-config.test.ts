import { existsSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { parse } from 'smol-toml';
import { describe, expect, it } from 'vitest';
import {
  planSnapshotter,
  planSnapshotterRemoval,
} from '../../../src/agent/commands/containerd-config.ts';
import { carryOut } from '../../../src/agent/commands/containerd-files.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const SETTINGS = {
  ...{ snapshotter: 'xylem', disable_snapshot_annotations: false, discard_unpacked_layers: true },
};
const PLUGIN = {
  ...{ type: 'snapshot', address: '/run/sock' },
  exports: { root: '/var/snapshots', enable_remote_snapshot_annotations: 'true' },
};

function init(file: string, forCri = true) {
  return { file, socket: '/run/sock', snapshotsDir: '/var/snapshots', forCri };
}

function fileOf(text: string): string {
  const file = join(tempFolder(), 'config.toml');
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

/** What the file says after the change, and after it was undone. */
function changed(text: string, forCri = true) {
  const file = fileOf(text);
  carryOut(planSnapshotter(init(file, forCri)));
  const after = readFileSync(file, 'utf8');
  expect(planSnapshotter(init(file, forCri)).action).toBe('none');
  carryOut(planSnapshotterRemoval({ file }));
  expect(existsSync(file) ? readFileSync(file, 'utf8') : undefined).toBe(text);
  return { after, says: parse(after) as Record<string, Record<string, unknown>> };
}

const V2 = `version = 2
root = "/data" # where
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause:3.9"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs" # usual
    default_runtime_name = "runc"
    disable_snapshot_annotations = true
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      snapshotter = ""
[proxy_plugins]
  [proxy_plugins.other]
    type = "snapshot"
    address = "/run/other"
`;

describe('planSnapshotter()', () => {
  it('writes a file where none exists, and removes it again', () => {
    const file = join(tempFolder(), 'containerd', 'config.toml');
    const change = planSnapshotter(init(file));
    expect(change.action).toBe('create');
    carryOut(change);
    expect(readFileSync(file, 'utf8')).toBe(`\
# xylem: begin (made by \`xylem configure-containerd\`, taken out by its --remove)
version = 2

[proxy_plugins.xylem]
  type = "snapshot"
  address = "/run/sock"
  [proxy_plugins.xylem.exports]
    root = "/var/snapshots"
    enable_remote_snapshot_annotations = "true"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "xylem"
  disable_snapshot_annotations = false
  discard_unpacked_layers = true
# xylem: end
`);
    expect(planSnapshotter(init(file)).action).toBe('none');
    carryOut(planSnapshotterRemoval({ file }));
    expect(existsSync(file)).toBe(false);
  });

  it('sets values in the table that is there, and keeps everything else', () => {
    const { after, says } = changed(V2);
    expect(says).toMatchObject({
      ...{ version: 2, root: '/data' },
      proxy_plugins: { other: { address: '/run/other' }, xylem: PLUGIN },
      plugins: {
        'io.containerd.grpc.v1.cri': {
          sandbox_image: 'pause:3.9',
          containerd: {
            ...{ ...SETTINGS, default_runtime_name: 'runc' },
            runtimes: { runc: { snapshotter: '' } },
          },
        },
      },
    });
    expect(after).toContain('# xylem: was     snapshotter = "overlayfs" # usual\n');
  });

  it.each([
    ['version = 3\n', ['io.containerd.cri.v1.images']],
    ["version = 3\n[plugins.'io.containerd.cri.v1.images']\n", ['io.containerd.cri.v1.images']],
    ['[plugins.cri.containerd]\n  snapshotter = "native"\n', ['cri', 'containerd']],
    ['# mine\nversion = 2', ['io.containerd.grpc.v1.cri', 'containerd']],
    ['oom_score = 0\n[plugins]\n[plugins.cri]\n', ['cri', 'containerd']],
  ])('knows the tables of each version: %j', (text, place) => {
    const { says } = changed(text);
    const settings = place.reduce<unknown>(
      (table, name) => (table as Record<string, unknown>)[name],
      says['plugins'],
    );
    expect(settings).toEqual(SETTINGS);
  });

  it('leaves CRI alone where that is wanted', () => {
    const { says } = changed(V2, false);
    expect(says['proxy_plugins']?.['xylem']).toEqual(PLUGIN);
    expect(says['plugins']).toEqual((parse(V2) as Record<string, unknown>)['plugins']);
  });

  it('goes from one choice to another', () => {
    const file = fileOf(V2);
    for (const change of [
      planSnapshotter(init(file)),
      ...[init(file, false), { ...init(file), socket: '/run/2' }].map((next) => () => next),
    ]) {
      carryOut(typeof change === 'function' ? planSnapshotter(change()) : change);
    }
    expect(parse(readFileSync(file, 'utf8'))).toMatchObject({
      proxy_plugins: { xylem: { address: '/run/2' } },
    });
    carryOut(planSnapshotterRemoval({ file }));
    expect(readFileSync(file, 'utf8')).toBe(V2);
  });

  it('keeps mode, link and a copy of the file, and edits made since', () => {
    const file = fileOf(V2);
    const link = join(tempFolder(), 'config.toml');
    symlinkSync(file, link);
    carryOut(planSnapshotter(init(link)));
    for (const path of [file, `${file}.before-xylem`]) {
      expect(statSync(path).mode & 0o777).toBe(0o600);
    }
    expect(readFileSync(`${file}.before-xylem`, 'utf8')).toBe(V2);
    writeFileSync(file, `${readFileSync(file, 'utf8')}[metrics]\n  address = "x"\n`);
    const removal = planSnapshotterRemoval({ file: link });
    expect(removal.note).toContain('edited since');
    carryOut(removal);
    expect(readFileSync(link, 'utf8')).toBe(`${V2}[metrics]\n  address = "x"\n`);
  });

  it.each([
    ['version = 2\nplugins = {}\n', 'because of its layout'],
    ['version = 2\n[plugins]\n"io.containerd.grpc.v1.cri".containerd.x = 1\n', 'by hand'],
    ['version = 2\n[proxy_plugins.xylem]\n  address = "x"\n', 'did not write'],
    ['version = 2\nproxy_plugins = { a = { type = "content" } }\n', 'by hand'],
    ['version =', 'not valid TOML'],
  ])('refuses %j, and changes nothing', (text, why) => {
    const file = fileOf(text);
    expect(() => planSnapshotter(init(file))).toThrow(why);
    expect(readFileSync(file, 'utf8')).toBe(text);
  });

  it('keeps what any file says, or refuses it', () => {
    const key = fc.constantFrom('snapshotter', 'discard_unpacked_layers', 'x');
    const value = fc.constantFrom('"overlayfs"', 'true', '1', '"a # b"', '[1]', '"""\n[x]\n"""');
    const line = fc.tuple(key, value).map(([name, text]) => `${name} = ${text}`);
    const header = fc.constantFrom(
      ...['[plugins."io.containerd.grpc.v1.cri".containerd]', '[plugins.cri.containerd]'],
      ...["[plugins.'io.containerd.cri.v1.images']", '[proxy_plugins]', '[[x.y]]', '# comment', ''],
    );
    const version = fc.constantFrom('', 'version = 1', 'version = 2', 'version = 3');
    const body = fc.array(fc.oneof(line, header), { maxLength: 8 });
    fc.assert(
      fc.property(version, body, (first, rest) => {
        const text = `${[first, ...rest].join('\n')}\n`;
        let before: unknown;
        try {
          before = parse(text);
        } catch {
          return;
        }
        const file = fileOf(text);
        try {
          carryOut(planSnapshotter(init(file)));
        } catch (error) {
          expect(error).toMatchObject({ code: 'layout' });
          expect(readFileSync(file, 'utf8')).toBe(text);
          return;
        }
        expect(parse(readFileSync(file, 'utf8'))).toMatchObject({
          proxy_plugins: { xylem: PLUGIN },
        });
        carryOut(planSnapshotterRemoval({ file }));
        const after = existsSync(file) ? readFileSync(file, 'utf8') : '';
        expect(parse(after)).toEqual(before);
      }),
    );
  });
});
