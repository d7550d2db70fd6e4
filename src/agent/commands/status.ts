import type { Command } from 'commander';
import { formatSizeBytes } from '../../util/sizes.ts';
import { askAgent, type AdminPlace } from '../admin/admin-client.ts';
import type { AgentStatus, MountedImage, ShownHost, TreeStatus } from '../admin/answers.ts';
import { adminOption, columns, jsonOption, printFacts, tokenOption } from './output.ts';

interface Options extends AdminPlace {
  readonly json?: boolean;
}

/** `xylem status`: shows facts of a running agent. */
export function registerStatus(program: Command): void {
  program
    .command('status')
    .description('show the role, the state and the counters of a running agent')
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:' +
        '\n  xylem status' +
        '\n  xylem status --admin http://10.0.0.7:19146 --token-file read.token' +
        '\n  xylem status --json | jq .store',
    )
    .action(async (options: Options) => {
      const status = await askAgent(options, 'status');
      printFacts(options.json, status, statusText(status));
    });
}

/** `xylem tree`: shows the places of a running agent in trees. */
export function registerTree(program: Command): void {
  program
    .command('tree')
    .description("show an agent's places in the trees of the blobs that it holds")
    .argument('[digest]', 'only the trees of this blob (sha256:...)')
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText('after', '\nExamples:\n  xylem tree\n  xylem tree --json | jq .trees[0].path')
    .action(async (digest: string | undefined, options: Options) => {
      const answer = await askAgent(options, 'tree', digest === undefined ? {} : { digest });
      printFacts(options.json, answer, treeText(answer, digest));
    });
}

function statusText(status: AgentStatus): string {
  const { store } = status;
  const rows: (readonly [string, string])[] = [
    ['agent', `xylem ${status.version}, ${status.role} in zone ${status.zone}`],
    ['state', status.notReady === undefined ? 'ready' : `not ready: ${status.notReady}`],
    ...status.notices.map((notice) => ['notice', notice] as const),
    ['up', `${Math.floor(status.uptimeSeconds)} s, since when it counts`],
    ['peer', status.peer],
    ['addresses', status.addresses.join(' ') || 'none'],
    ...status.roots.map((root) => ['root', rootText(root)] as const),
    ['connections', `${status.peers.length} peers`],
    ...status.hosts.map((host) => ['', hostText(host)] as const),
    [
      'store',
      `${formatSizeBytes(store.sizeBytes)} of ${formatSizeBytes(store.quotaBytes)} ` +
        `in ${store.dir}: ${store.blockCount} blocks of ${store.blobCount} blobs`,
    ],
    ...(store.writeTrouble === undefined
      ? []
      : [['', `takes no blocks: ${store.writeTrouble}`] as const]),
    ...status.mounts.map((mount) => ['mount', mountText(mount)] as const),
    ['failed reads', String(status.failedReads)],
    ...Object.entries(status.bytesBySource).map(
      ([source, bytes]) => [`from ${source}`, formatSizeBytes(bytes)] as const,
    ),
  ];
  return columns(rows);
}

/** A mounted image: what, where, and the device under it. */
export function mountText({ image, dir, device, sizeBytes }: MountedImage): string {
  return `${image} at ${dir} (${device}, ${formatSizeBytes(sizeBytes)})`;
}

function rootText({ host, address, peer, reason }: AgentStatus['roots'][number]): string {
  const state = reason === undefined ? 'answers' : `does not answer: ${reason}`;
  return `${host || peer} (${address}) ${state}`;
}

/** A host by zone, name and address; by its peer id when nothing else is known of it. */
function hostText({ peer, name, zone, address }: ShownHost): string {
  const named = name === '' ? peer : zone === 'default' ? name : `${zone}/${name}`;
  const where = /^\/ip[46]\/([^/]+)\/tcp\/(\d+)/.exec(address);
  if (where === null) return named;
  const [, host = '', port = ''] = where;
  return `${named} (${host.includes(':') ? `[${host}]` : host}:${port})`;
}

/** The places in the trees of each blob: stripes with the same parents and children in one line. */
function treeText(
  { trees, hosts }: { readonly trees: readonly TreeStatus[]; readonly hosts: readonly ShownHost[] },
  digest?: string,
): string {
  if (trees.length === 0) {
    return digest === undefined
      ? 'This agent is in no tree: no program on this host mounts or reads a blob.'
      : `This agent is in no tree of ${digest}: no program on this host mounts or reads it.`;
  }
  const known = new Map(hosts.map((host) => [host.peer, host]));
  const textOf = (peer: string): string =>
    hostText(known.get(peer) ?? { peer, name: '', zone: '', address: '' });
  const blobs = new Map<string, Map<string, number[]>>();
  for (const tree of trees) {
    const path =
      tree.path.length === 0 ? 'the owner' : `below ${tree.path.map(textOf).join(' < ')}`;
    const children =
      tree.children.length === 0 ? 'no children' : tree.children.map(textOf).join(', ');
    const places = blobs.get(tree.digest) ?? new Map<string, number[]>();
    blobs.set(tree.digest, places);
    const place = `${path}; children: ${children}`;
    places.set(place, [...(places.get(place) ?? []), tree.stripe]);
  }
  return [...blobs]
    .flatMap(([blob, places]) => [
      blob,
      ...[...places].map(([place, stripes]) => `  stripe ${stripes.join(', ')}: ${place}`),
    ])
    .join('\n');
}
