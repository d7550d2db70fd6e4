import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it, onTestFinished } from 'vitest';
import { Containerd } from '../../kit/containerd.ts';
import { CriClient } from '../../kit/cri-client.ts';
import { describeWith } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { lay, PATH, shapeOf, type Site } from '../kit/containerd-layouts.ts';
import { AWAY, LAYOUT_NEEDS, sharedRegistries } from '../kit/named-registry.ts';

const CLI = new URL('../../../bin/xylem.js', import.meta.url).pathname;

const CRI = '[plugins."io.containerd.grpc.v1.cri".registry';

interface CriLayout {
  readonly name: string;
  readonly wants?: 'certificate' | 'path';
  /** The tables of containerd's configuration that have to go before `config_path` comes. */
  readonly main?: (site: Site) => string;
  /** The same in a file that the configuration imports. */
  readonly imported?: (site: Site) => string;
}

const tlsOf = (host: string, tls: Site['tls'], ...more: readonly string[]): string =>
  [`${CRI}.configs."${host}".tls]`, `  ca_file = "${tls.caFile}"`, ...more, ''].join('\n');

const mirrorOf = (host: string, ...urls: readonly string[]): string =>
  `${CRI}.mirrors."${host}"]\n  endpoint = ${JSON.stringify(urls)}\n`;

const LAYOUTS: readonly CriLayout[] = [
  {
    name: 'an authority, and an endpoint that is away',
    main: ({ registry, tls }) =>
      mirrorOf(registry, AWAY, `https://${registry}`) + tlsOf(registry, tls),
  },
  { name: 'an authority alone', main: ({ registry, tls }) => tlsOf(registry, tls) },
  {
    name: 'an authority and a client certificate',
    wants: 'certificate',
    main: ({ registry, tls }) =>
      tlsOf(
        registry,
        tls,
        `  cert_file = "${tls.certificateFile}"`,
        `  key_file = "${tls.keyFile}"`,
      ),
  },
  {
    name: 'an endpoint with a path',
    wants: 'path',
    main: ({ registry, tls }) =>
      mirrorOf(registry, `https://${registry}${PATH}`) + tlsOf(registry, tls),
  },
  {
    name: 'endpoints for all, and no verification, in an imported file',
    imported: ({ registry }) =>
      `${mirrorOf('*', AWAY)}${CRI}.configs."${registry}".tls]\n  insecure_skip_verify = true\n`,
  },
];

interface Report {
  readonly isSound?: boolean;
  readonly containerd: { readonly advice?: string };
  readonly changes: readonly { readonly action: string }[];
  readonly notes: readonly string[];
}

describeWith('xylem configure-containerd, by what CRI then pulls', LAYOUT_NEEDS, () => {
  const ends: (() => void | Promise<void>)[] = [];
  const registryFor = sharedRegistries((end) => void ends.push(end));
  afterAll(async () => {
    for (const end of ends.reverse()) await end();
  });

  async function configure(...args: readonly string[]): Promise<Report & { code: number }> {
    return new Promise((resolve, reject) => {
      const line = [CLI, 'configure-containerd', '--json', ...args];
      execFile(process.execPath, line, (error, out, err) => {
        if (out === '') reject(new Error(err));
        else resolve({ ...(JSON.parse(out) as Report), code: Number(error?.code ?? 0) });
      });
    });
  }

  /** A containerd that serves CRI, and a registry that only it and the agent can name. */
  async function start(wants: CriLayout['wants'], init: (site: Site) => string, dir: string) {
    const site = await registryFor(wants);
    const { proxy, registry, enter } = site;
    const containerd = await Containerd.start(dir, {
      ...{ daemonEnter: enter, sandboxImage: 'none', registry: init(site) },
    });
    const cri = new CriClient(containerd.socket);
    onTestFinished(() => cri.close());
    const image = `${registry}/team/app:1`;
    const pull = async (): Promise<number> => {
      proxy.requests.length = 0;
      await cri.pull(image);
      await cri.removeImage(image);
      return proxy.direct().filter(({ path }) => path.includes('/blobs/')).length;
    };
    return { ...site, containerd, pull };
  }

  it.each(LAYOUTS)('takes config.toml over: $name', async ({ wants, main, imported }) => {
    const folder = tempFolder();
    const dir = join(folder, 'certs.d');
    const old = join(folder, 'conf.d', 'registries.toml');
    mkdirSync(join(folder, 'conf.d'));
    const { containerd, registry, mirror, pull } = await start(
      wants,
      (site) => {
        writeFileSync(old, `version = 2\n${imported?.(site) ?? ''}`);
        return main?.(site) ?? '';
      },
      dir,
    );
    const file = containerd.configFile;
    const text = readFileSync(file, 'utf8');
    if (imported !== undefined) {
      // containerd 1.x takes all of a plugin from the last file that names it.
      const [before = '', cri = ''] = text.split(
        /(?=^\[plugins\."io\.containerd\.grpc\.v1\.cri"\])/m,
      );
      writeFileSync(file, `imports = ["${folder}/conf.d/*.toml"]\n${before}`);
      writeFileSync(
        old,
        `version = 2\n${cri}\n${readFileSync(old, 'utf8').replace('version = 2', '')}`,
      );
      await containerd.restart('SIGTERM');
    }
    expect(await pull(), 'before').toBeGreaterThan(0);

    const args = ['--containerd-config', file, '--dir', dir, '--registry', registry];
    expect((await configure(...args, '--check')).code).toBe(1);
    const names = imported === undefined ? args : [...args, '--default'];
    const { containerd: said } = await configure(...names, '--mirror', AWAY);
    expect(said.advice).toContain(imported === undefined ? `of ${file}` : `of ${old}`);
    expect(said.advice).not.toContain('run this command with');
    expect(await pull(), 'as before').toBeGreaterThan(0);

    // What the advice says: these out, those in.
    const place = imported === undefined ? file : old;
    const [, added = ''] = /\n\n((?: {4}.*\n)+)\n/.exec(said.advice ?? '') ?? [];
    const kept = readFileSync(place, 'utf8')
      .split(/^(?=\[)/m)
      .filter((table) => !/^\[plugins.*registry\.(mirrors|configs)/.test(table));
    writeFileSync(place, `${kept.join('').trimEnd()}\n${added}`);
    await containerd.restart('SIGTERM');
    expect(await pull(), 'with the agent away').toBeGreaterThan(0);
    expect((await configure(...names, '--mirror', AWAY, '--check')).isSound).toBe(true);

    await configure(...names, '--mirror', mirror);
    const direct = await pull();
    if (wants === undefined) expect(direct, 'through the agent').toBe(0);
    const removed = await configure(...names, '--remove');
    expect(removed.changes[0]).toMatchObject({ action: 'delete' });
    expect(JSON.stringify(removed.changes)).toContain("containerd's configuration goes too");
  });

  it('names the folders that containerd reads first, and keeps what later ones say', async () => {
    const folder = tempFolder();
    const [first, second] = [join(folder, 'certs.d'), join(folder, 'docker')];
    mkdirSync(first);
    const { containerd, registry, mirror, pull } = await start(
      undefined,
      ({ registry: host, tls }) => {
        lay(second, { [`${host}/ca.crt`]: { copy: tls.caFile } });
        return `${CRI}]\n  config_path = "${first}:${second}"\n`;
      },
      first,
    );
    const before = [shapeOf(first), shapeOf(second)];
    expect(await pull()).toBeGreaterThan(0);
    const base = ['--containerd-config', containerd.configFile, '--dir', first];
    expect(await configure(...base, '--default')).toMatchObject({
      error: expect.stringContaining(`no longer read ${registry}`) as string,
    });
    const args = [...base, '--registry', registry, '--default', '--mirror'];
    await configure(...args, AWAY);
    expect(await pull(), 'with the agent away').toBeGreaterThan(0);
    await configure(...args, mirror);
    expect(await pull(), 'through the agent').toBe(0);
    expect((await configure(...args, mirror, '--check')).code).toBe(0);
    await configure(...args, mirror, '--remove');
    expect([shapeOf(first), shapeOf(second)]).toEqual(before);
    expect(await pull()).toBeGreaterThan(0);
  });

  it('says where containerd 1.x takes config_path from', async () => {
    const folder = tempFolder();
    const dir = join(folder, 'certs.d');
    const more = join(folder, 'more.toml');
    const { containerd, registry, tls, pull } = await start(
      undefined,
      () => `${CRI}]\n  config_path = "${dir}"\n`,
      dir,
    );
    mkdirSync(join(dir, registry), { recursive: true });
    copyFileSync(tls.caFile, join(dir, registry, 'ca.crt'));
    expect(await pull()).toBeGreaterThan(0);
    const text = readFileSync(containerd.configFile, 'utf8');
    writeFileSync(containerd.configFile, `imports = ["${more}"]\n${text}`);
    const [, cri = ''] = text.split(/(?=^\[plugins\."io\.containerd\.grpc\.v1\.cri"\])/m);
    writeFileSync(more, `version = 2\n${cri.replace(/^ *config_path.*\n/m, '')}`);
    await containerd.restart('SIGTERM');
    await expect(pull()).rejects.toThrow('certificate');
    const args = ['--containerd-config', containerd.configFile, '--dir', dir];
    const { containerd: said } = await configure(...args, '--registry', registry, '--check');
    expect(said.advice).toContain(`from ${more}`);
    const [, added = ''] = /\n\n((?: {4}.*\n)+)\n/.exec(said.advice ?? '') ?? [];
    const old = readFileSync(more, 'utf8').replace(`${CRI}]\n`, `${CRI}]\n${added}`);
    expect(added).not.toContain('[');
    writeFileSync(more, old);
    await containerd.restart('SIGTERM');
    expect(await pull()).toBeGreaterThan(0);
  });
});
