import { InvalidArgumentError, type Command } from 'commander';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { isRegistryHost } from '../../registry/hosts.ts';
import { registryName } from '../../registry/reference.ts';
import { SNAPSHOTS_DIR, SNAPSHOTTER_SOCKET } from '../config/device-keys.ts';
import { checkBlockSnapshotter, connectFault } from './block-snapshotter.ts';
import {
  checkConfigPath,
  credentialAdvice,
  foldersRead,
  pluginAdvice,
} from './containerd-advice.ts';
import { planSnapshotter, planSnapshotterRemoval } from './containerd-config.ts';
import { carryOut, ContainerdFileError, realFile, type FileChange } from './containerd-files.ts';
import { DEFAULT_HOST, otherHosts } from './containerd-folders.ts';
import { planMirror, planRemoval, takenOver, type HostsChange } from './containerd-hosts.ts';
import { readRegistryConfig, type RegistryConfig } from './containerd-registries.ts';
import { jsonOption, printFacts } from './output.ts';

interface Options {
  readonly dir: string;
  readonly registry: readonly string[];
  readonly default?: boolean;
  readonly mirror: string;
  readonly server?: string;
  readonly blockImages?: boolean;
  readonly snapshotter?: boolean;
  readonly cri: boolean;
  readonly socket: string;
  readonly snapshotsDir: string;
  readonly remove?: boolean;
  readonly dryRun?: boolean;
  readonly check?: boolean;
  readonly containerdConfig: string;
  readonly json?: boolean;
}

const EXAMPLES = `
containerd then asks the agent first, and the registry itself when the agent refuses. The command
keeps the contents of a hosts.toml, and copies them to hosts.toml.before-xylem; --remove restores
that copy. Repeating either command changes nothing. What containerd reads elsewhere until then
(certificate files, _default, \`mirrors\` and \`configs\` of config.toml) the hosts.toml says too.

With --check the command changes nothing, and exits with 1 when a run would change something, or
containerd would not do what hosts.toml says.

With --snapshotter, containerd (1.6 to 2.x) has \`xylem device\` make the root filesystems of
containers: block images start from blocks that arrive on demand, ordinary images as before.
containerd's config.toml gets a [proxy_plugins.xylem], and the snapshotter of CRI. The command keeps
everything else of the file, and checks that. Start \`xylem device\` first, then restart containerd:
running containers go on; images that another snapshotter has are pulled or unpacked anew.

Examples:
  xylem configure-containerd --registry registry.example --registry registry.lan:5000
  xylem configure-containerd --default
  xylem configure-containerd --default --block-images
  xylem configure-containerd --registry reg.lan:5000 --server http://reg.lan:5000 --dry-run
  xylem configure-containerd --registry registry.example --check --json
  xylem configure-containerd --registry registry.example --remove
  xylem configure-containerd --snapshotter --dry-run
  xylem configure-containerd --snapshotter --default --block-images
  xylem configure-containerd --snapshotter --no-cri
  xylem configure-containerd --snapshotter --remove`;

/**
 * `xylem configure-containerd`: makes this host's agent a mirror of registries for containerd, and
 * its device process containerd's snapshotter; undoes both.
 */
export function registerConfigureContainerd(program: Command): void {
  const command = program
    .command('configure-containerd')
    .description(
      "have containerd pull through this host's agent, and make containers from its devices",
    )
    .option('--dir <dir>', "containerd's config_path", '/etc/containerd/certs.d')
    .option('--registry <host>', 'registry as image references name it; repeatable', hosts, [])
    .option('--default', 'all registries without a folder of their own (_default)')
    .option('--mirror <url>', 'local address of the agent', urlOf, 'http://127.0.0.1:19145')
    .option('--server <url>', "the registry's URL, if containerd would guess another", urlOf)
    .option(
      '--block-images',
      'ask for the block images of images, which a snapshotter of this host mounts',
    )
    .option('--snapshotter', "make `xylem device` containerd's snapshotter, in config.toml")
    .option('--no-cri', 'with --snapshotter: leave the snapshotter of CRI (Kubernetes) as it is')
    .option('--socket <path>', 'socket of that snapshotter', SNAPSHOTTER_SOCKET)
    .option('--snapshots-dir <dir>', 'where it keeps its files', SNAPSHOTS_DIR)
    .option('--remove', 'remove the agent from hosts.toml, or the snapshotter from config.toml')
    .option('--dry-run', 'show the changes, and make none')
    .option('--check', 'show whether all is as a run would leave it; exits with 1 when not')
    .option(
      '--containerd-config <file>',
      "containerd's configuration: the folder that it reads, and its snapshotters",
      '/etc/containerd/config.toml',
    )
    .addOption(jsonOption())
    .addHelpText('after', EXAMPLES);
  command.action((options: Options) => run(command, options));
}

async function run(command: Command, options: Options): Promise<void> {
  const { server, remove, dryRun, check } = options;
  const registries = [...new Set(options.registry), ...(options.default ? [DEFAULT_HOST] : [])];
  if (registries.length === 0 && !options.snapshotter) {
    command.error('error: name a --registry, or --default, or --snapshotter');
  }
  if (server !== undefined && (registries.length > 1 || options.default)) {
    command.error('error: --server needs exactly one --registry, and no --default');
  }
  if (options.blockImages && !remove) {
    const socket = options.snapshotter ? options.socket : undefined;
    await checkBlockSnapshotter(options.containerdConfig, socket);
  }
  // Plans all changes before it makes the first: a file that it cannot parse stops the command with
  // no change made.
  const dir = resolve(options.dir);
  const config = configOf(options);
  const isDry = dryRun === true || check === true;
  const hosts = registries.map((registry) => hostsChange(registry, { ...options, dir }, config));
  const changes = withoutSame([
    ...hosts,
    ...(options.snapshotter ? [snapshotterChange(options)] : []),
  ]);
  const hasMirror = registries.length > 0 && !remove;
  if (hasMirror && options.default) refuseHidden(dir, config, registries);
  const others = [...otherHosts(dir), DEFAULT_HOST];
  const known = hasMirror ? [...registries.map(registryName), ...takenOver(dir, others)] : [];
  const pathCheck = hasMirror ? checkConfigPath(config, dir, known) : undefined;
  if (!isDry) for (const change of changes) carryOut(change);
  const hiding = options.default && !remove ? otherHosts(dir) : [];
  const files = hosts.map(({ file, credentials = [] }) => ({ file, hosts: credentials }));
  const faults = [
    ...(remove ? [] : hosts.flatMap((each) => each.faults ?? [])),
    ...(pathCheck?.advice === undefined ? [] : [pathCheck.advice]),
    ...(options.snapshotter && options.cri && !remove ? pluginAdvice(config) : []),
  ];
  const notes = [
    ...(hiding.length > 0
      ? [`_default does not apply to registries with a folder: ${hiding.join(', ')}`]
      : []),
    ...(hasMirror ? credentialAdvice(config, { mirror: options.mirror, registries, files }) : []),
    ...(options.snapshotter ? await snapshotterNotes(options, changes) : []),
  ];
  const isSound = faults.length === 0 && changes.every(({ action }) => action === 'none');
  const facts = {
    ...{ dryRun: isDry, ...(check && { isSound }), changes },
    ...(pathCheck && { containerd: pathCheck }),
    ...{ faults, notes: [...notes, ...faults] },
  };
  const lines = changes.map((change) => lineOf(change, isDry));
  const said = [...faults, ...notes].map((note) => `Note: ${note}`);
  printFacts(options.json, facts, [...lines, ...said].join('\n'));
  if (check && !isSound) process.exitCode = 1;
}

/** To undo the command no file of containerd's own has to be right. */
function configOf({ containerdConfig, remove }: Options): RegistryConfig {
  try {
    return readRegistryConfig(containerdConfig);
  } catch (error) {
    if (remove) return readRegistryConfig('/dev/null');
    throw error;
  }
}

function hostsChange(registry: string, options: Options, config: RegistryConfig): HostsChange {
  const { dir, mirror, server, blockImages } = options;
  const init = { dir, dirs: foldersRead(config, dir), registry, config };
  if (options.remove) return planRemoval(init);
  return planMirror({
    ...{ ...init, mirror, blockImages: blockImages === true },
    ...(server !== undefined && { server }),
  });
}

/** Each file once: links may lead from several registries to one. */
function withoutSame(changes: readonly FileChange[]): readonly FileChange[] {
  const seen = new Map<string, string>();
  return changes.map((change) => {
    const real = realFile(change.file);
    const first = seen.get(real);
    seen.set(real, first ?? change.file);
    if (first === undefined || change.action === 'none') return change;
    const { backup: _, ...rest } = change;
    return { ...rest, action: 'none', note: `the same file as ${first}` };
  });
}

/** A new _default comes before folders of registries in later folders of config_path. */
function refuseHidden(dir: string, config: RegistryConfig, registries: readonly string[]): void {
  if (existsSync(join(dir, DEFAULT_HOST))) return;
  const dirs = foldersRead(config, dir);
  const here = new Set([...otherHosts(dir), ...registries]);
  for (const later of dirs.slice(dirs.indexOf(dir) + 1)) {
    const hidden = otherHosts(later).filter((name) => !here.has(name));
    if (hidden.length === 0) continue;
    throw new ContainerdFileError(
      `with ${dir}/${DEFAULT_HOST} containerd would no longer read ${hidden.join(', ')} of ` +
        `${later}: name these with --registry too; no file was changed`,
      { code: 'layout', path: dir },
    );
  }
}

function snapshotterChange(options: Options): FileChange {
  const { containerdConfig: file, socket, snapshotsDir, cri: forCri } = options;
  if (options.remove) return planSnapshotterRemoval({ file });
  return planSnapshotter({ file, socket, snapshotsDir, forCri });
}

/** What is left to be done by hand. */
async function snapshotterNotes(
  { remove, socket, containerdConfig }: Options,
  changes: readonly FileChange[],
): Promise<readonly string[]> {
  if (changes.at(-1)?.action === 'none') return [];
  const file = containerdConfig;
  const restart = `restart containerd (systemctl restart containerd), which reads ${file} once`;
  if (remove) {
    return [`remove containers and images of the snapshotter before you stop it; then ${restart}`];
  }
  const fault = await connectFault(socket);
  const first = fault === undefined ? '' : `${fault}: start \`xylem device\` first; then `;
  return [`${first}${restart}`];
}

const DONE: Readonly<Record<FileChange['action'], string>> = {
  create: 'written',
  change: 'changed',
  restore: 'restored to its earlier contents',
  delete: 'removed',
  none: 'unchanged',
};

function lineOf({ file, action, text, backup, note }: FileChange, dryRun: boolean): string {
  const kept = action === 'change' && backup !== undefined ? `, the old one is ${backup}` : '';
  const line = `${file}: ${dryRun ? 'would be ' : ''}${DONE[action]}${kept}`;
  const content =
    dryRun && text !== undefined ? `\n${text.replaceAll(/^/gm, '    ').trimEnd()}` : '';
  return `${line}${note === undefined ? '' : ` (${note})`}${content}`;
}

function hosts(text: string, before: readonly string[]): readonly string[] {
  if (isRegistryHost(text)) return [...before, text];
  throw new InvalidArgumentError('It must be HOST or HOST:PORT.');
}

function urlOf(text: string): string {
  const url = URL.parse(text);
  const isPlain = url?.pathname === '/' && url.search === '' && url.username === '';
  if (url !== null && isPlain && /^https?:$/.test(url.protocol)) return url.origin;
  throw new InvalidArgumentError('It must be http[s]://HOST[:PORT].');
}
