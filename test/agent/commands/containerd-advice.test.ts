import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'smol-toml';
import { describe, expect, it } from 'vitest';
import {
  checkConfigPath,
  credentialAdvice,
} from '../../../src/agent/commands/containerd-advice.ts';
import {
  hostsTableOf,
  readRegistryConfig,
} from '../../../src/agent/commands/containerd-registries.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const MIRROR = 'http://127.0.0.1:19145';

function fileOf(text: string): string {
  const file = join(tempFolder(), 'config.toml');
  writeFileSync(file, text);
  return file;
}

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
    const check = checkConfigPath(readRegistryConfig(file), dir);
    if (advice === undefined) expect(check.advice).toBeUndefined();
    else expect(check.advice).toMatch(advice);
  });

  it.each([
    ['', 'version = 2\n'],
    ['# nothing\n', 'version = 2\n'],
    ['version = 2\n', '[plugins."io.containerd.grpc.v1.cri".registry]'],
    ['version = 3\n', '[plugins."io.containerd.cri.v1.images".registry]'],
    ['disabled_plugins = ["restart"]\n', '[plugins.cri.registry]'],
    [`version = 2\n${cri}\n`, `the table ${cri}`],
    [`version = 2\n${cri}\n  config_path = ""\n`, 'in place of its empty config_path'],
    [`version = 2\n[${cri.slice(1, -1)}.headers]\n  a = ["b"]\n`, '.registry]'],
  ])('advises of %j what containerd can read', (text, advised) => {
    const { advice = '' } = checkConfigPath(readRegistryConfig(fileOf(text)), dir);
    expect(advice).toContain(advised);
    const [, added = ''] = /\n\n((?: {4}.*\n)+)\n/.exec(advice) ?? [];
    const isInTable = advice.includes('the table');
    const after = isInTable
      ? text.replace(/ *config_path = ""\n/, '').replace(`${cri}\n`, `${cri}\n${added}`)
      : text + added;
    expect(parse(after)).toBeDefined();
    expect(checkConfigPath(readRegistryConfig(fileOf(after)), dir).advice).toBeUndefined();
  });

  it.each([
    [
      `${cri.slice(0, -1)}.mirrors."docker.io"]\n  endpoint = ["http://m"]\n`,
      'registry.mirrors."docker.io"',
    ],
    [`${cri.slice(0, -1)}.configs."a:1".tls]\n  ca_file = "x"\n`, 'registry.configs."a:1".tls'],
    [`${cri.slice(0, -1)}.mirrors."*"]\n  endpoint = ["http://m"]\n`, '--default'],
  ])('says first what has to go: %j', (table, name) => {
    for (const before of ['', `${cri}\n  config_path = "${dir}"\n`]) {
      const { advice = '' } = checkConfigPath(
        readRegistryConfig(fileOf(`version = 2\n${before}${table}`)),
        dir,
        [],
      );
      expect(advice).toContain(name);
      expect(advice).toContain('First take these out');
      expect(advice).toContain('Before that run this command with');
      const at = advice.indexOf('  config_path =');
      expect(at < 0 || at > advice.indexOf('First take')).toBe(true);
    }
  });

  it('reads imported files, by patterns too, and advises of no relative path', () => {
    const folder = tempFolder();
    mkdirSync(join(folder, 'conf.d'));
    const write = (name: string, text: string): void => writeFileSync(join(folder, name), text);
    write(
      'config.toml',
      'version = 2\nimports = ["conf.d/[0-9]*.toml", "last.toml", "config.toml"]\n',
    );
    write('conf.d/1.toml', `version = 2\n${cri}\n  config_path = "${dir}"\n`);
    write('conf.d/x.toml', 'no toml');
    write('last.toml', `version = 2\n[${cri.slice(1, -1)}.configs."a".auth]\n  username = "u"\n`);
    const config = readRegistryConfig(join(folder, 'config.toml'));
    expect(config).toMatchObject({ configPath: dir, auths: [{ host: 'a' }] });
    expect(checkConfigPath(config, dir).advice).toContain('containerd 1.x takes');
    const none = readRegistryConfig(join(folder, 'none.toml'));
    expect(checkConfigPath(none, 'certs.d').advice).toContain(
      `"${join(process.cwd(), 'certs.d')}"`,
    );
  });

  it('says so when the file does not exist', () => {
    expect(checkConfigPath(readRegistryConfig('/nowhere/config.toml'), dir).advice).toMatch(
      /does not exist/,
    );
  });
});

describe('hostsTableOf()', () => {
  const table = (text: string, registry: string | undefined) =>
    hostsTableOf(readRegistryConfig(fileOf(`version = 2\n${text}`)), registry);
  const at = 'plugins."io.containerd.grpc.v1.cri".registry';
  const mirrors = (host: string, ...urls: readonly string[]) =>
    `[${at}.mirrors."${host}"]\n  endpoint = ${JSON.stringify(urls)}\n`;
  const capabilities = ['pull', 'resolve'];

  it.each([
    [
      'r.example',
      mirrors('r.example', 'http://m:1', 'https://m/v2'),
      {
        host: { 'http://m:1': { capabilities }, 'https://m/v2': { capabilities } },
      },
    ],
    [
      'r.example',
      mirrors('r.example', 'm:1/p', 'http://r.example'),
      {
        server: 'http://r.example',
        host: { 'https://m:1/p': { capabilities, override_path: true } },
      },
    ],
    [
      'docker.io',
      mirrors('*', 'http://all') + mirrors('docker.io', 'http://own'),
      {
        host: { 'http://own': { capabilities } },
      },
    ],
    ['r.example', mirrors('*', 'http://all'), { host: { 'http://all': { capabilities } } }],
    [undefined, mirrors('*', 'http://all'), { host: { 'http://all': { capabilities } } }],
    [
      'localhost:5000',
      mirrors('localhost:5000', 'http://m'),
      {
        server: 'http://localhost:5000',
        host: { 'http://m': { capabilities } },
      },
    ],
    [
      'docker.io',
      `[${at}.configs."registry-1.docker.io".tls]\n  ca_file = "/ca"\n`,
      { ca: ['/ca'] },
    ],
    ['r.example', `[${at}.configs."other".tls]\n  ca_file = "/ca"\n`, {}],
  ])('says of %j what CRI makes of %j', (registry, text, expected) => {
    expect(table(text, registry)).toEqual(expected);
  });
});

describe('credentialAdvice()', () => {
  const at = 'plugins."io.containerd.grpc.v1.cri".registry';
  const auth = (host: string) => `[${at}.configs."${host}".auth]\n  username = "u"\n`;
  const advice = (text: string, registries: readonly string[], hosts: readonly string[] = []) =>
    credentialAdvice(readRegistryConfig(fileOf(`version = 2\n${text}`)), {
      ...{ mirror: MIRROR, registries, files: [{ file: '/certs.d/r/hosts.toml', hosts }] },
    }).join('\n');

  it('says which credentials go past the agent, unless the agent gets some', () => {
    expect(advice(auth('r:1'), ['r:1'])).toContain('credentials for r:1 in its configuration');
    expect(advice(auth('r:1'), ['_default'])).toContain('go past the agent');
    expect(advice(auth('registry-1.docker.io'), ['docker.io'])).toContain('docs/MIRROR.md');
    expect(advice(`[${at}.auths."https://r:1"]\n  username = "u"\n`, ['r:1'])).toContain('r:1');
    expect(advice(auth('r:1'), ['other'])).toBe('');
    expect(advice(auth('r:1') + auth('127.0.0.1:19145'), ['r:1'])).toBe('');
    expect(advice('', ['r:1'], ['', 'http://a'])).toContain('gives the server, http://a an');
    expect(advice('', ['r:1'], ['http://a', MIRROR])).toBe('');
  });
});
