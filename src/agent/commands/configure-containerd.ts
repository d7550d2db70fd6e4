import { InvalidArgumentError, type Command } from 'commander';
import { isRegistryHost } from '../../registry/hosts.ts';
import { checkBlockSnapshotter } from './block-snapshotter.ts';
import {
  carryOut,
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
  readonly remove?: boolean;
  readonly dryRun?: boolean;
  readonly containerdConfig: string;
  readonly json?: boolean;
}

const EXAMPLES = `
containerd then asks the agent first, and the registry itself when the agent refuses. The command
keeps the contents of a hosts.toml, and copies them to hosts.toml.before-xylem; --remove restores
that copy. Repeating either command changes nothing.

Examples:
  xylem configure-containerd --registry registry.example --registry registry.lan:5000
  xylem configure-containerd --default
  xylem configure-containerd --default --block-images
  xylem configure-containerd --registry reg.lan:5000 --server http://reg.lan:5000 --dry-run
  xylem configure-containerd --registry registry.example --remove`;

/**
 * `xylem configure-containerd`: makes this host's agent a mirror of registries for containerd, and
 * undoes that.
 */
export function registerConfigureContainerd(program: Command): void {
  const command = program
    .command('configure-containerd')
    .description("write containerd's hosts.toml so that containerd pulls through this host's agent")
    .option('--dir <dir>', "containerd's config_path", '/etc/containerd/certs.d')
    .option('--registry <host>', 'registry as image references name it; repeatable', hosts, [])
    .option('--default', 'all registries without a folder of their own (_default)')
    .option('--mirror <url>', 'local address of the agent', urlOf, 'http://127.0.0.1:19145')
    .option('--server <url>', "the registry's URL, if containerd would guess another", urlOf)
    .option(
      '--block-images',
      'ask for the block images of images, which the overlaybd snapshotter of this host mounts',
    )
    .option('--remove', 'remove the agent from hosts.toml')
    .option('--dry-run', 'show the changes, and make none')
    .option(
      '--containerd-config <file>',
      'file that says whether containerd reads the folder, and which snapshotters run',
      '/etc/containerd/config.toml',
    )
    .addOption(jsonOption())
    .addHelpText('after', EXAMPLES);
  command.action((options: Options) => run(command, options));
}

async function run(command: Command, options: Options): Promise<void> {
  const { dir, mirror, server, blockImages, remove, dryRun } = options;
  const registries = [...new Set(options.registry), ...(options.default ? [DEFAULT_HOST] : [])];
  if (registries.length === 0) command.error('error: name a --registry, or --default');
  if (server !== undefined && (registries.length > 1 || options.default)) {
    command.error('error: --server needs exactly one --registry, and no --default');
  }
  if (blockImages && !remove) await checkBlockSnapshotter(options.containerdConfig);
  // Plans all changes before it makes the first: a file that it cannot parse stops the command with
  // no change made.
  const changes = registries.map((registry) =>
    remove
      ? planRemoval({ dir, registry })
      : planMirror({
          ...{ dir, registry, mirror, blockImages: blockImages === true },
          ...(server !== undefined && { server }),
        }),
  );
  const check = remove ? undefined : checkConfigPath(options.containerdConfig, dir);
  if (!dryRun) for (const change of changes) carryOut(change);
  const hiding = options.default && !remove ? otherHosts(dir) : [];
  const notes = [
    ...(hiding.length > 0
      ? [`_default does not apply to registries with a folder: ${hiding.join(', ')}`]
      : []),
    ...(check?.advice === undefined ? [] : [check.advice]),
  ];
  const facts = { dryRun: dryRun === true, changes, ...(check && { containerd: check }), notes };
  const lines = changes.map((change) => lineOf(change, dryRun === true));
  printFacts(options.json, facts, [...lines, ...notes.map((note) => `Note: ${note}`)].join('\n'));
}

const DONE: Readonly<Record<HostsChange['action'], string>> = {
  create: 'written',
  change: 'changed',
  restore: 'restored to its earlier contents',
  delete: 'removed',
  none: 'unchanged',
};

function lineOf({ file, action, text, backup, note }: HostsChange, dryRun: boolean): string {
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
