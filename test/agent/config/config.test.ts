import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { stringify } from 'yaml';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { configKeys, type ConfigKey } from '../../../src/agent/config/config-keys.ts';
import {
  ConfigError,
  formatConfig,
  loadConfig,
  type ConfigSources,
} from '../../../src/agent/config/config.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'xylem-config-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

function fileOf(text: string): string {
  const file = join(dir, 'agent.yaml');
  writeFileSync(file, text);
  return file;
}

/** The one error line for these sources. */
function refusal(sources: ConfigSources): string {
  try {
    loadConfig(sources);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error('the configuration was accepted');
}

/** The keys that complete any configuration. */
const ROOT = { role: 'root' } as const;

function nested(key: ConfigKey, value: unknown): object {
  return key.path.reduceRight<unknown>((inner, part) => ({ [part]: inner }), value) as object;
}

describe('loadConfig()', () => {
  it('fills in the defaults', () => {
    const config = loadConfig({ flags: ROOT });
    expect(config.store).toEqual({ dir: '/var/lib/xylem/store', quota: 20 * 2 ** 30 });
    const listen = ['/ip4/0.0.0.0/tcp/19147', '/ip6/::/tcp/19147'];
    expect(config.p2p).toEqual({ listen, announce: [] });
    expect(config.local).toEqual({
      listen: '127.0.0.1:19145',
      prefix: 'dadip2p',
      connectionsMax: 4096,
      accessSeconds: 300,
      accessStaleSeconds: 3600,
    });
    expect(config.device.enabled).toBe(false);
  });

  it('reads the file; variables override it, and flags override both', () => {
    const file = fileOf('role: root\nzone: file\nstore: {dir: /file, quota: 1GiB}\n');
    const variables = { XYLEM_ZONE: 'variable', XYLEM_STORE_QUOTA: '2GiB', HOME: '/root' };
    const config = loadConfig({ file, variables, flags: { zone: 'flag' } });
    expect(config.zone).toBe('flag');
    expect(config.store).toEqual({ dir: '/file', quota: 2 * 2 ** 30 });
  });

  it('accepts a file that sets nothing', () => {
    expect(loadConfig({ file: fileOf('# all defaults\n'), flags: ROOT }).zone).toBe('default');
  });

  it('reads lists and entries from one text', () => {
    const variables = {
      XYLEM_ROOTS: 'dns:roots:19147, /ip4/10.0.0.1/tcp/19147',
      XYLEM_REGISTRIES: '[{host: "localhost:5000", insecure: true}]',
      XYLEM_P2P_ANNOUNCE: '',
      XYLEM_DEVICE_ENABLED: 'true',
    };
    const config = loadConfig({ variables });
    expect(config.roots).toEqual(['dns:roots:19147', '/ip4/10.0.0.1/tcp/19147']);
    expect(config.registries).toEqual([
      { host: 'localhost:5000', insecure: true, mirrors: [], storage: [], opaqueStorage: [] },
    ]);
    expect(config.p2p.announce).toEqual([]);
    expect(config.device.enabled).toBe(true);
    expect(loadConfig({ flags: { ...ROOT, 'device.enabled': true } }).device.enabled).toBe(true);
  });

  it('reads limits and credentials, none by default', () => {
    const defaults = loadConfig({ flags: ROOT });
    expect(defaults.limits).toEqual({ originReads: 32 });
    expect(defaults.credentials).toEqual({ dockerConfigs: [], pullSecrets: [] });
    const variables = {
      XYLEM_LIMITS_UPLOAD_BYTES_PER_SECOND: '100MiB',
      XYLEM_LIMITS_REGISTRY_REQUESTS_PER_SECOND: '50',
      XYLEM_CREDENTIALS_PULL_SECRETS: '/etc/xylem/pull',
    };
    const config = loadConfig({ variables, flags: { ...ROOT, 'limits.originReads': '4' } });
    expect(config.limits).toEqual({
      uploadBytesPerSecond: 100 * 2 ** 20,
      originReads: 4,
      registryRequestsPerSecond: 50,
    });
    expect(config.credentials.pullSecrets).toEqual(['/etc/xylem/pull']);
  });

  it("ignores Kubernetes' variables of a service called xylem, and foreign variables", () => {
    const variables = {
      XYLEM_SERVICE_HOST: '10.0.0.1',
      XYLEM_SERVICE_PORT_P2P: '19147',
      XYLEM_PORT: 'tcp://10.0.0.1:19147',
      XYLEM_PORT_19147_TCP_ADDR: '10.0.0.1',
      XYLEM_ROOTS_SERVICE_PORT: '19147',
      XYLEM_DEBUG: '1',
      PATH: '/bin',
    };
    expect(loadConfig({ variables, flags: ROOT }).role).toBe('root');
  });

  it.each<[string, ConfigSources, string]>([
    ['a child without roots', {}, 'roots is [] (by default)'],
    [
      'a slip in a key',
      { variables: { XYLEM_STORE_QOUTA: '1' } },
      'did you mean XYLEM_STORE_QUOTA?',
    ],
    [
      'a size of another grammar',
      { flags: { 'store.quota': '20GB' } },
      'store.quota is "20GB" (in the flag --store.quota), but must be a size',
    ],
    [
      'an entry of a list, by the rule of an entry',
      { flags: { roots: 'dns:a:1,b' } },
      'roots[1] is "b" (in the flag --roots), but must be /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT',
    ],
    [
      'a storage that is no URL, by the rule of one',
      { flags: { registries: '[{host: a, storage: [b]}]' } },
      'registries[0].storage[0] is "b" (in the flag --registries), but must be http[s]://HOST',
    ],
    [
      'an entry whose name has a slip',
      { flags: { registries: '[{hots: a}]' } },
      'did you mean registries[0].host?',
    ],
    [
      'a slip in an entry',
      { flags: { registries: '[{host: a, mirors: []}]' } },
      'registries[0].mirors (in the flag --registries) is not a known key: ' +
        'did you mean registries[0].mirrors?',
    ],
    [
      'an entry without its name',
      { flags: { registries: '[{insecure: true}]' } },
      'registries[0].host is missing',
    ],
    ['a host twice', { flags: { registries: '[{host: a}, {host: a}]' } }, 'each host once'],
    [
      'a mirror with a password',
      { flags: { registries: '[{host: a, mirrors: ["https://u:p@b"]}]' } },
      'registries[0].mirrors[0]',
    ],
    [
      'a mirror whose path climbs',
      { flags: { registries: '[{host: a, mirrors: ["https://b/v2/../x"]}]' } },
      'registries[0].mirrors[0]',
    ],
    [
      'a registry that is a URL',
      { flags: { 'mirror.defaultRegistry': 'https://r.example' } },
      'mirror.defaultRegistry',
    ],
    [
      'a certificate without its key',
      { flags: { registries: '[{host: a, certFile: /c.pem}]' } },
      'registries[0].clientKeyFile is missing (in the flag --registries), but must be a path',
    ],
    [
      'a key without its certificate',
      { flags: { registries: '[{host: a, clientKeyFile: /k.pem}]' } },
      'registries[0].certFile is missing',
    ],
    [
      'a proxy with a password',
      { flags: { registries: '[{host: a, proxy: "http://u:p@b"}]' } },
      'registries[0].proxy',
    ],
    [
      'a proxy of another kind',
      { flags: { registries: '[{host: a, proxy: "socks5://b"}]' } },
      'none',
    ],
    [
      'a rate below a megabyte',
      { flags: { 'limits.uploadBytesPerSecond': '1KiB' } },
      '1MiB to 1TiB',
    ],
    ['no reads at all', { flags: { 'limits.originReads': '0' } }, 'a whole number from 1 to 256'],
    ['a list that is no YAML', { flags: { roots: '[a' } }, 'roots is "[a"'],
    ['a slash in the prefix', { flags: { 'local.prefix': '/dadip2p' } }, 'local.prefix'],
  ])('refuses %s', (_, sources, part) => {
    expect(refusal(sources)).toContain(part);
  });

  it.each([
    ['a key in the wrong place', 'quota: 1GiB', 'did you mean store.quota?'],
    ['a slip in a section', 'stroe: {dir: /x}', 'did you mean store?'],
    ['a slip in a section, which is a value', 'strore: /x', 'did you mean store?'],
    ['a section within a section', 'store: {store: {dir: /x}}', 'store.store (in'],
    ['a section that is a value', 'store: 5', 'store is 5'],
    ['a section that is nothing', 'store:', 'store is null'],
    ['a list at the top', '- role: root', 'the whole file is [{"role":"root"}]'],
    ['a text at the top', 'root', 'the whole file is "root"'],
    ['broken YAML', 'role: [root', 'is not valid YAML'],
    ['a key twice', 'role: root\nrole: child', 'is not valid YAML'],
    [
      'a list that holds itself',
      'roots: &a [*a]',
      'roots[0] is a list or mapping that cannot be shown',
    ],
    ['a number for a name', 'zone: 5', 'zone is 5'],
    [
      'a quota of half a byte',
      'role: root\nstore: {quota: 70000000.5}',
      'store.quota is 70000000.5',
    ],
  ])('refuses a file with %s', (_, text, part) => {
    const line = refusal({ file: fileOf(text) });
    expect(line).toContain(part);
    expect(line).not.toContain('\n');
  });

  it('names the file that it cannot read', () => {
    expect(refusal({ file: join(dir, 'missing.yaml') })).toMatch(/missing\.yaml: ENOENT/);
    expect(refusal({ file: dir })).toMatch(/EISDIR/);
  });

  it('refuses any one wrong value with one line that names the key and the place', () => {
    const wrongFor = {
      text: [null, true, 7.5, {}, [], 'a\0b'],
      boolean: [null, 1, 'yes', []],
      list: [null, 'x', 5, {}, [5], [null], [{ a: 1 }]],
    };
    const cases = configKeys.flatMap((key) => wrongFor[key.kind].map((value) => ({ key, value })));
    for (const { key, value } of cases) {
      const file = fileOf(stringify({ ...ROOT, ...nested(key, value) }));
      const line = refusal({ file });
      expect(line.split('\n')).toHaveLength(1);
      expect(line).toContain(`configuration: ${key.name}`);
      expect(line).toContain(`in ${file}`);
    }
    for (const key of configKeys) {
      const line = refusal({ variables: { XYLEM_ROLE: 'root', [key.variable]: '\0\n"{' } });
      expect(line.split('\n')).toHaveLength(1);
      expect(line).toContain(`configuration: ${key.name}`);
      expect(line).toContain(key.variable);
    }
  });

  it('answers any file with a configuration or a ConfigError of one line', () => {
    const name = fc.oneof(
      fc.constantFrom(
        'store',
        'p2p',
        'quota',
        'listen',
        'registries',
        'host',
        '__proto__',
        'constructor',
        'toString',
      ),
      fc.string({ maxLength: 8 }),
    );
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.constant(null),
        fc.string(),
        fc.integer(),
        fc.boolean(),
        tie('list'),
        tie('map'),
      ),
      list: fc.array(tie('value'), { maxLength: 3 }),
      map: fc.dictionary(name, tie('value'), { maxKeys: 4 }),
    }));
    fc.assert(
      fc.property(value, (content) => {
        try {
          loadConfig({ file: fileOf(stringify(content)) });
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError);
          expect((error as Error).message).not.toContain('\n');
        }
      }),
      { numRuns: 500 },
    );
    expect(Object.hasOwn(Object.prototype, 'quota')).toBe(false);
  });
});

describe('formatConfig()', () => {
  it('writes a file that loads to the same configuration', () => {
    const config = loadConfig({
      flags: {
        ...ROOT,
        'store.quota': '70000000',
        registries: '[{host: a, caFile: /ca.pem}]',
        'local.prefix': '',
      },
    });
    expect(loadConfig({ file: fileOf(formatConfig(config)) })).toEqual(config);
  });
});

describe('configKeys', () => {
  it('describes every key', () => {
    for (const key of configKeys) {
      expect(key.description.length, key.name).toBeGreaterThan(10);
      expect(key.rule.length, key.name).toBeGreaterThan(5);
    }
  });
});
