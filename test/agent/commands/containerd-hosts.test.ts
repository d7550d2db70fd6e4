import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { parse } from 'smol-toml';
import { describe, expect, it, onTestFinished } from 'vitest';
import { carryOut, ContainerdFileError } from '../../../src/agent/commands/containerd-files.ts';
import { DEFAULT_HOST, otherHosts } from '../../../src/agent/commands/containerd-folders.ts';
import { planMirror, planRemoval } from '../../../src/agent/commands/containerd-hosts.ts';
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

describe('planMirror(), of what containerd reads elsewhere', () => {
  const init = (dir: string) => ({ dir, registry: REGISTRY, mirror: MIRROR });
  const says = (dir: string) => parse(planMirror(init(dir)).text ?? '');

  it('names certificate files in order, and those added since', () => {
    const dir = tempFolder();
    const folder = join(dir, REGISTRY);
    for (const name of ['b.crt', 'a.crt', 'x.cert', 'x.key', 'y.cert', 'z.key', 'readme']) {
      write(join(folder, name), '');
    }
    mkdirSync(join(folder, 'old.crt'));
    const client = [
      ['x.cert', 'x.key'],
      ['y.cert', 'y.cert'],
    ];
    expect(says(dir)).toMatchObject({ ca: ['a.crt', 'b.crt'], client });
    carryOut(planMirror(init(dir)));
    write(join(folder, 'c.crt'), '');
    expect(planMirror(init(dir)).action).toBe('change');
    expect(says(dir)).toMatchObject({ ca: ['a.crt', 'b.crt', 'c.crt'] });
    write(join(folder, 'hosts.toml'), `[host."https://${REGISTRY}"]\n`);
    expect(says(dir)).not.toHaveProperty('ca');
  });

  it('follows _default, which may know the agent already, and no folder that hides it', () => {
    const dir = tempFolder();
    const file = join(dir, DEFAULT_HOST, 'hosts.toml');
    write(file, `ca = ["a.pem"]\n[host."${MIRROR}"]\n  dial_timeout = "1s"\n[host."http://b"]\n`);
    const expected = {
      ca: [join(dir, DEFAULT_HOST, 'a.pem')],
      host: { [MIRROR]: { capabilities: ['pull', 'resolve'], dial_timeout: '1s' }, 'http://b': {} },
    };
    expect(says(dir)).toEqual(expected);
    carryOut(planMirror(init(dir)));
    expect(planMirror(init(dir)).action).toBe('none');
    write(file, 'skip_verify = true\n');
    expect(says(dir)).toMatchObject({ skip_verify: true });
    carryOut(planRemoval({ dir, registry: REGISTRY }));
    expect(existsSync(join(dir, REGISTRY))).toBe(false);
    mkdirSync(join(dir, REGISTRY));
    expect(says(dir)).not.toHaveProperty('skip_verify');
    carryOut(planMirror(init(dir)));
    carryOut(planRemoval({ dir, registry: REGISTRY }));
    expect(readdirSync(dir).sort()).toEqual([DEFAULT_HOST, REGISTRY]);
  });

  it('says that a server was not heeded, or is from now on', () => {
    const dir = tempFolder();
    write(join(dir, REGISTRY, 'hosts.toml'), 'server = "https://a.example"\n');
    const note = (server: string) => planMirror({ ...init(dir), server }).note ?? '';
    expect(note('https://b.example')).toContain('https://b.example is not heeded');
    expect(note('https://a.example')).not.toContain('heeded');
    expect(note('https://a.example')).toContain('1.x took no notice');
  });

  it('finds what keeps containerd from reading a file, and credentials in it', () => {
    const dir = tempFolder();
    const file = join(dir, REGISTRY, 'hosts.toml');
    for (const [text, fault] of [
      [`ca = "none.pem"\n[host."http://a"]\n`, /none\.pem: not there/],
      ['[host."http://a"]\n  capabilities = ["fetch"]\n', /reads nothing of/],
      ['[host."http://a"]\n  client = 1\n', /a `client` that is no path/],
      ['[host."http://a".header]\n  x = 1\n', /a header that is no text/],
    ] as const) {
      write(file, text);
      expect(planMirror(init(dir)).faults?.join(), text).toMatch(fault);
    }
    write(file, '[header]\n  AUTHORIZATION = "x"\n[host."http://a".header]\n  y = "z"\n');
    expect(planMirror(init(dir))).toMatchObject({ credentials: [''] });
  });

  it('keeps a header for the agent that stands below its part', () => {
    const dir = tempFolder();
    const file = join(dir, REGISTRY, 'hosts.toml');
    carryOut(planMirror(init(dir)));
    const header = `[host."${MIRROR}".header]\n  Authorization = "Basic x"\n`;
    writeFileSync(file, readFileSync(file, 'utf8') + header);
    expect(planMirror(init(dir)).action).toBe('none');
    const server = 'http://registry.example';
    const change = planMirror({ ...init(dir), server });
    expect(parse(change.text ?? '')).toEqual({
      server,
      host: {
        [MIRROR]: { capabilities: ['pull', 'resolve'], header: { Authorization: 'Basic x' } },
      },
    });
    expect(change.credentials).toEqual([MIRROR]);
    expect(planRemoval({ dir, registry: REGISTRY }).note).toContain('by hand stays');
  });

  it('refuses links that lead nowhere, and bytes that are no text', () => {
    const dir = tempFolder();
    const file = join(dir, REGISTRY, 'hosts.toml');
    mkdirSync(join(dir, REGISTRY));
    symlinkSync('nowhere', file);
    expect(() => planMirror(init(dir))).toThrow('leads nowhere');
    unlinkSync(file);
    writeFileSync(file, Buffer.from('# caf\xe9\n', 'latin1'));
    expect(() => planMirror(init(dir))).toThrow(ContainerdFileError);
  });

  it('makes new files for everybody, and leaves names that share a file sharing it', () => {
    const dir = tempFolder();
    const umask = process.umask(0o077);
    onTestFinished(() => void process.umask(umask));
    const change = planMirror(init(dir));
    carryOut(change);
    expect(statSync(change.file).mode & 0o777).toBe(0o644);
    expect(statSync(dirname(change.file)).mode & 0o777).toBe(0o755);
    const [file, other] = [join(dir, 'a.example', 'hosts.toml'), join(dir, 'kept.toml')];
    write(file, OWN);
    linkSync(file, other);
    carryOut(planMirror({ ...init(dir), registry: 'a.example' }));
    expect(readFileSync(other, 'utf8')).toContain(MIRROR);
    carryOut(planRemoval({ dir, registry: 'a.example' }));
    expect([statSync(file).ino, readFileSync(other, 'utf8')]).toEqual([statSync(other).ino, OWN]);
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

describe('otherHosts()', () => {
  it('lists the folders that hide _default', () => {
    const dir = tempFolder();
    expect(otherHosts(join(dir, 'nowhere'))).toEqual([]);
    for (const name of ['b.example', 'a.example', DEFAULT_HOST]) mkdirSync(join(dir, name));
    expect(otherHosts(dir)).toEqual(['a.example', 'b.example']);
  });
});
