import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  checkConfigPath,
  DEFAULT_HOST,
  otherHosts,
  planMirror,
  planRemoval,
} from '../../../src/agent/commands/containerd-hosts.ts';
import { carryOut, ContainerdFileError } from '../../../src/agent/commands/containerd-files.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const MIRROR = 'http://127.0.0.1:19145';
const REGISTRY = 'registry.example';

const OWN = `# ours
server = "https://registry.example"

[host."http://old.mirror:5000"]
  capabilities = ["pull"]
  [host."http://old.mirror:5000".header]
    x-team = ["a"]
`;

function write(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}

describe('planMirror()', () => {
  it('writes a file where none exists, for one registry and for all', () => {
    const dir = tempFolder();
    for (const registry of [REGISTRY, DEFAULT_HOST]) {
      const change = planMirror({ dir, registry, mirror: MIRROR });
      expect(change).toMatchObject({ action: 'create', file: join(dir, registry, 'hosts.toml') });
      expect(existsSync(change.file)).toBe(false);
      carryOut(change);
      expect(readFileSync(change.file, 'utf8')).toBe(change.text);
      expect(change.text).toContain(`[host."${MIRROR}"]\n  capabilities = ["pull", "resolve"]\n`);
      expect(planMirror({ dir, registry, mirror: MIRROR }).action).toBe('none');
    }
  });

  it('goes before the existing hosts, keeps the rest, and keeps the old file', () => {
    const dir = tempFolder();
    const file = join(dir, REGISTRY, 'hosts.toml');
    write(file, OWN);
    const change = planMirror({ dir, registry: REGISTRY, mirror: MIRROR });
    carryOut(change);
    const text = readFileSync(file, 'utf8');
    expect(text.indexOf(MIRROR)).toBeLessThan(text.indexOf('old.mirror'));
    expect(text.indexOf(MIRROR)).toBeGreaterThan(text.indexOf('server ='));
    expect(readFileSync(`${file}.before-xylem`, 'utf8')).toBe(OWN);
    expect(planMirror({ dir, registry: REGISTRY, mirror: MIRROR }).action).toBe('none');
    const moved = planMirror({ dir, registry: REGISTRY, mirror: 'http://127.0.0.1:5050' });
    expect(moved).toMatchObject({ action: 'change' });
    expect(moved.text).not.toContain(MIRROR);
    carryOut(moved);
    expect(readFileSync(`${file}.before-xylem`, 'utf8')).toBe(OWN);
  });

  it('names the given server, unless the file names one', () => {
    const dir = tempFolder();
    const init = { dir, registry: REGISTRY, mirror: MIRROR, server: 'http://registry.example' };
    expect(planMirror(init).text).toContain('server = "http://registry.example"\n');
    write(join(dir, REGISTRY, 'hosts.toml'), OWN);
    expect(planMirror(init).text).not.toContain('http://registry.example"');
  });

  it('uses the folder that containerd reads first', () => {
    const dir = tempFolder();
    const registry = 'registry.lan:5000';
    const init = { dir, registry, mirror: MIRROR };
    expect(planMirror(init).file).toBe(join(dir, registry, 'hosts.toml'));
    mkdirSync(join(dir, 'registry.lan_5000_'));
    expect(planMirror(init).file).toBe(join(dir, 'registry.lan_5000_', 'hosts.toml'));
    expect(planMirror({ ...init, registry: 'index.docker.io' }).file).toContain('/docker.io/');
  });

  it('leaves alone manual configuration, and files that it cannot read or keep', () => {
    const dir = tempFolder();
    const file = join(dir, REGISTRY, 'hosts.toml');
    const init = { dir, registry: REGISTRY, mirror: MIRROR };
    write(file, `[host."${MIRROR}"]\n  capabilities = ["pull"]\n`);
    expect(planMirror(init)).toMatchObject({ action: 'none' });
    for (const [text, code] of [
      ['server = ', 'syntax'],
      // Its line that looks like a table is none: a part inserted there would mean something else.
      ['note = """\n[no table]\n"""\n', 'layout'],
      ['host = {"http://a.example" = {}}\n', 'syntax'],
    ] as const) {
      write(file, text);
      expect(() => planMirror(init), text).toThrow(ContainerdFileError);
      expect(() => planMirror(init), text).toThrow(
        expect.objectContaining({ code }) as unknown as Error,
      );
      expect(readFileSync(file, 'utf8')).toBe(text);
    }
  });
});

describe('planRemoval()', () => {
  it('removes its file, with the folder; does nothing where none exists', () => {
    const dir = tempFolder();
    carryOut(planMirror({ dir, registry: REGISTRY, mirror: MIRROR }));
    const removal = planRemoval({ dir, registry: REGISTRY });
    expect(removal.action).toBe('delete');
    carryOut(removal);
    expect(readdirSync(dir)).toEqual([]);
    expect(planRemoval({ dir, registry: REGISTRY }).action).toBe('none');
    write(join(dir, REGISTRY, 'hosts.toml'), OWN);
    expect(planRemoval({ dir, registry: REGISTRY }).action).toBe('none');
  });

  it('restores the old file to the byte, whatever its end', () => {
    for (const text of [OWN, OWN.trimEnd(), 'server = "https://registry.example"', '']) {
      const dir = tempFolder();
      const file = join(dir, REGISTRY, 'hosts.toml');
      write(file, text);
      carryOut(planMirror({ dir, registry: REGISTRY, mirror: MIRROR }));
      expect(readFileSync(file, 'utf8')).not.toBe(text);
      carryOut(planRemoval({ dir, registry: REGISTRY }));
      expect(readFileSync(file, 'utf8')).toBe(text);
      expect(readdirSync(dirname(file))).toEqual(['hosts.toml']);
    }
  });

  it('keeps later edits, and the old file beside them', () => {
    const dir = tempFolder();
    const file = join(dir, REGISTRY, 'hosts.toml');
    write(file, OWN);
    carryOut(planMirror({ dir, registry: REGISTRY, mirror: MIRROR }));
    writeFileSync(file, readFileSync(file, 'utf8').replace('old.mirror', 'new.mirror'));
    const removal = planRemoval({ dir, registry: REGISTRY });
    expect(removal).toMatchObject({
      action: 'change',
      note: expect.stringContaining('edited') as string,
    });
    carryOut(removal);
    expect(readFileSync(file, 'utf8')).toContain('new.mirror');
    expect(readFileSync(file, 'utf8')).not.toContain(MIRROR);
    expect(readFileSync(`${file}.before-xylem`, 'utf8')).toBe(OWN);
  });
});

describe('checkConfigPath()', () => {
  const dir = '/etc/containerd/certs.d';
  const cri = '[plugins."io.containerd.grpc.v1.cri".registry]';
  it.each([
    ['version = 2\n', /has no config_path/],
    [`version = 2\n${cri}\n  config_path = ""\n`, /has no config_path/],
    [`${cri}\n  config_path = "/elsewhere"\n`, /name the same folder in --dir/],
    [`${cri}\n  config_path = "${dir}"\n  [${cri.slice(1, -1)}.mirrors.x]\n`, /containerd refuses/],
    [`${cri}\n  config_path = "/a:${dir}"\n`, undefined],
    [
      `version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '${dir}'\n`,
      undefined,
    ],
  ])('says what to do about %j', (text, advice) => {
    const file = join(tempFolder(), 'config.toml');
    writeFileSync(file, text);
    const check = checkConfigPath(file, dir);
    if (advice === undefined) expect(check.advice).toBeUndefined();
    else expect(check.advice).toMatch(advice);
  });

  it('says so when the file does not exist', () => {
    expect(checkConfigPath('/nowhere/config.toml', dir).advice).toMatch(/does not exist/);
  });
});

describe('otherHosts()', () => {
  it('lists the folders that hide _default', () => {
    const dir = tempFolder();
    expect(otherHosts(join(dir, 'nowhere'))).toEqual([]);
    for (const name of ['b.example', 'a.example', DEFAULT_HOST]) mkdirSync(join(dir, name));
    expect(otherHosts(dir)).toEqual(['a.example', 'b.example']);
  });
});
