import { InvalidArgumentError, type Command } from 'commander';
import { isRegistryHost } from '../../registry/hosts.ts';
import { SNAPSHOTS_DIR, SNAPSHOTTER_SOCKET } from '../config/device-keys.ts';
import { checkBlockSnapshotter, connectFault } from './block-snapshotter.ts';
import { planSnapshotter, planSnapshotterRemoval } from './containerd-config.ts';
import { carryOut, type FileChange } from './containerd-files.ts';
import {
  checkConfigPath,
  DEFAULT_HOST,
  otherHosts,
  planMirror,
  planRemoval,
  type HostsChange,
} from './containerd-hosts.ts';
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
  readonly containerdConfig: string;
  readonly json?: boolean;
}

const EXAMPLES = `
containerd then asks the agent first, and the registry itself when the agent refuses. The command
keeps the contents of a hosts.toml, and copies them to hosts.toml.before-xylem; --remove restores
that copy. Repeating either command changes nothing.

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
  const { dir, server, remove, dryRun } = options;
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
  const changes: readonly FileChange[] = [
    ...registries.map((registry) => hostsChange(registry, options)),
    ...(options.snapshotter ? [snapshotterChange(options)] : []),
  ];
  const hasMirror = registries.length > 0 && !remove;
  const check = hasMirror ? checkConfigPath(options.containerdConfig, dir) : undefined;
  if (!dryRun) for (const change of changes) carryOut(change);
  const hiding = options.default && !remove ? otherHosts(dir) : [];
  const notes = [
    ...(hiding.length > 0
      ? [`_default does not apply to registries with a folder: ${hiding.join(', ')}`]
      : []),
    ...(check?.advice === undefined ? [] : [check.advice]),
    ...(options.snapshotter ? await snapshotterNotes(options, changes) : []),
  ];
  const facts = { dryRun: dryRun === true, changes, ...(check && { containerd: check }), notes };
  const lines = changes.map((change) => lineOf(change, dryRun === true));
  printFacts(options.json, facts, [...lines, ...notes.map((note) => `Note: ${note}`)].join('\n'));
}

function hostsChange(registry: string, options: Options): HostsChange {
  const { dir, mirror, server, blockImages } = options;
  if (options.remove) return planRemoval({ dir, registry });
  return planMirror({
    ...{ dir, registry, mirror, blockImages: blockImages === true },
    ...(server !== undefined && { server }),
  });
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
