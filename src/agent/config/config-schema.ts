import { DEFAULT_SOURCES, storagePrefixFault } from '../../registry/sources.ts';
import { z } from 'zod';
import { ADDRESSES_MAX } from '../../net/limits.ts';
import { ADMIN_SOCKET } from './admin-socket.ts';
import { deviceKeys } from './device-keys.ts';
import { isDialMultiaddr, isDnsRoot, isListenMultiaddr, isPeer } from './multiaddrs.ts';
import { isProxyUrl, isRegistryHost } from '../../registry/hosts.ts';
import { isMirrorUrl } from '../../registry/mirror-url.ts';
import {
  absolutePath,
  count,
  item,
  key,
  list,
  LIST_LENGTH_MAX,
  LISTEN_RULE,
  listenAddress,
  path,
  PATH_RULE,
  size,
  SOCKET_RULE,
  socketPath,
  text,
} from './shapes.ts';

const STORAGE_RULE =
  'http[s]://HOST[:PORT]/[PATH/]; no wildcard above a name that anybody may register; the path ' +
  'of the bucket on a shared host';
const storages = list(
  item(
    text((value) => storagePrefixFault(value) === undefined),
    STORAGE_RULE,
  ),
).default([]);

const MIRROR_RULE = 'http[s]://HOST[:PORT][/PATH]';
const LISTEN_MULTIADDR_RULE = '/ip4|ip6/ADDRESS/tcp/PORT';
const listenMultiaddr = item(text(isListenMultiaddr), LISTEN_MULTIADDR_RULE);
const ROOT_RULE = '/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/PEER] or dns:NAME:PORT';
const upstreams = list(
  item(
    text((value) => isDialMultiaddr(value) || isDnsRoot(value)),
    ROOT_RULE,
  ),
).default([]);
const paths = list(item(path, PATH_RULE)).default([]);

/** Both families: a host may have IPv6 alone. */
const LISTEN = ['/ip4/0.0.0.0/tcp/19147', '/ip6/::/tcp/19147'];

/** A smaller store than one large layer's working set evicts blocks that it has just fetched. */
const QUOTA_BYTES_MIN = 64 * 2 ** 20;
const QUOTA_BYTES_MAX = 2 ** 50;

/**
 * At a lower rate, a block of 256 KiB takes longer than other agents wait before they ask
 * elsewhere.
 */
const RATE_BYTES_MIN = 2 ** 20;
const RATE_BYTES_MAX = 2 ** 40;

/** Each read holds a block: 64 MiB in all. */
const ORIGIN_READS_MAX = 256;
const REQUESTS_PER_SECOND_MAX = 100_000;
/**
 * On Linux a process in a systemd unit may open at most 524,288 files by default; a connection is
 * one file.
 */
const CONNECTIONS_MAX_MAX = 65_536;

/** One day: a program that has lost the right to read keeps its access no longer than that. */
const ACCESS_SECONDS_MAX = 86_400;

const CONCURRENT_MAX = 16;

/** Nine digits, as many as a count has here. */
const GROUP_MAX = 999_999_999;

const quota = size(QUOTA_BYTES_MIN, QUOTA_BYTES_MAX);
const rate = size(RATE_BYTES_MIN, RATE_BYTES_MAX).optional();
const RATE_RULE = 'a size per second from 1MiB to 1TiB, such as 100MiB or a number of bytes';

/** A week. */
const SECONDS_MAX = 7 * 24 * 3600;
const KEEP_SECONDS_MAX = 10 * 365 * 24 * 3600;
const SECONDS_RULE = `a whole number of seconds from 0 to ${SECONDS_MAX}`;
const seconds = count(0, SECONDS_MAX);

const registryShape = z.strictObject({
  host: key(text(isRegistryHost), {
    description: 'The registry as image references name it.',
    rule: 'HOST or HOST:PORT',
  }),
  insecure: key(z.boolean().default(false), {
    description:
      'Use plain HTTP for this host. Registries over HTTPS may lead to it too, for tokens and ' +
      'blobs.',
    rule: 'true or false',
  }),
  caFile: key(path.optional(), {
    description:
      'PEM file of further authorities that may sign its certificate, beside the usual ones.',
    rule: PATH_RULE,
  }),
  credentialsFile: key(path.optional(), {
    description:
      'File with one line `user:password`, readable by the agent alone. ' +
      'The agent uses it before the files of `credentials`.',
    rule: PATH_RULE,
  }),
  certFile: key(path.optional(), {
    description:
      'PEM file of a client certificate and the intermediate certificates up to its authority. ' +
      'The agent shows it to this server alone, on request. Read at the start.',
    rule: `${PATH_RULE}; with clientKeyFile or not at all`,
  }),
  clientKeyFile: key(path.optional(), {
    description:
      "PEM file of that certificate's key, without a passphrase, readable by the agent alone.",
    rule: `${PATH_RULE}; with certFile or not at all`,
  }),
  proxy: key(text((value) => value === 'none' || isPlainProxy(value)).optional(), {
    description:
      'Proxy for this registry, its token server and its storage, or `none`. ' +
      'Not set: HTTP_PROXY, HTTPS_PROXY and NO_PROXY decide.',
    rule: '"none" or http[s]://HOST[:PORT]; set a proxy with a password in HTTPS_PROXY',
  }),
  storage: key(storages, {
    description:
      'Storages to which it redirects blob reads, by URL prefix: what they send is believed ' +
      'as if the registry had sent it. `*` stands for one label of the host. Name the bucket ' +
      'or the CDN of this registry, never a host that others share.',
    rule: `a list of at most ${LIST_LENGTH_MAX} URLs ${STORAGE_RULE}`,
  }),
  opaqueStorage: key(storages, {
    description:
      'Storages to which it redirects blob reads by URLs without a digest, by URL prefix. ' +
      'Objects below it that an S3 signature opens are shared under a key of storage, path, ' +
      'ETag and size. Name it on every host: one that does not know it passes such URLs ' +
      'through. The buckets of Amazon ECR are in the default list.',
    rule: `a list of at most ${LIST_LENGTH_MAX} URLs ${STORAGE_RULE}`,
  }),
  mirrors: key(list(item(text(isMirrorUrl), MIRROR_RULE)).default([]), {
    description:
      'Servers to ask before the registry, in this order. The agent asks a mirror ' +
      'with the settings of the entry for its own host, ' +
      "never with the registry's credentials or certificate. " +
      'A path with `/v2` is where repositories begin (`https://harbor.example/v2/PROJECT`); ' +
      'of another one the agent tries `PATH/v2` and `/v2/PATH`.',
    rule: `a list of at most ${LIST_LENGTH_MAX} URLs ${MIRROR_RULE}`,
  }),
});

const registry = registryShape
  .refine((entry) => entry.certFile === undefined || entry.clientKeyFile !== undefined, {
    path: ['clientKeyFile'],
  })
  .refine((entry) => entry.clientKeyFile === undefined || entry.certFile !== undefined, {
    path: ['certFile'],
  });

function isPlainProxy(value: string): boolean {
  return isProxyUrl(value) && !value.includes('@');
}

/**
 * The configuration of an agent: every key with its default, its description and its rule. The YAML
 * file, the flags, the XYLEM_* variables, docs/CONFIGURATION.md and the error lines all follow from
 * this schema.
 */
export const configSchema = z.strictObject({
  role: key(z.enum(['root', 'relay', 'child']).default('child'), {
    description:
      'A `root` reads from registries and keeps the trees. A `relay`, below the roots, ' +
      'keeps the part of the trees of one group of hosts. ' +
      'A `child` fetches from its parents in the trees.',
    rule: '"root", "relay" or "child"',
  }),
  identity: z.strictObject({
    keyFile: key(path.default('/var/lib/xylem/identity.key'), {
      description:
        'Key that identifies this host to other agents. The agent creates it at the first start; ' +
        'keep it, and never copy it to another host.',
      rule: PATH_RULE,
    }),
  }),
  cluster: z.strictObject({
    keyFile: key(path.default('/etc/xylem/cluster.key'), {
      description:
        'Secret that admits agents to the cluster, the same on every host: 32 to 4096 bytes, ' +
        'for instance from `openssl rand -hex 32`. To replace it, write the new secret ' +
        'and the old one, a line each. The agent reads the file again when it changes.',
      rule: PATH_RULE,
    }),
    rootsAuthority: key(path.optional(), {
      description:
        'File with the public key (Ed25519, PEM or base64) that certifies the roots, the ' +
        'same on every host. With it a root that `roots` names without its id must show a ' +
        'certificate. `xylem cluster init` makes it.',
      rule: PATH_RULE,
    }),
    rootCertFile: key(path.optional(), {
      description:
        'File with the certificate of this host, when it is a root. Not set: `root.cert` ' +
        'beside `identity.keyFile`, if there is one.',
      rule: PATH_RULE,
    }),
  }),
  zone: key(text((value) => /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(value)).default('default'), {
    description:
      'Failure and bandwidth domain of this host, such as its rack or its availability zone. ' +
      'A block crosses into a zone once.',
    rule: '1 to 63 letters, digits, ".", "_" or "-", the first a letter or digit',
  }),
  p2p: z.strictObject({
    listen: key(list(listenMultiaddr).min(1).default(LISTEN), {
      description:
        'Addresses on which other agents reach this one. `/ip6/::` beside others is left out on ' +
        'a host without IPv6.',
      rule: `a list of 1 to ${LIST_LENGTH_MAX} multiaddrs ${LISTEN_MULTIADDR_RULE}`,
    }),
    announce: key(z.array(listenMultiaddr).max(ADDRESSES_MAX).default([]), {
      description:
        'Addresses to tell others instead of those listened on, where they differ (address ' +
        'translation, several networks). Without it others are told of the addresses of all ' +
        'interfaces, as they come and go, and try the one that this host is seen under first.',
      rule: `a list of at most ${ADDRESSES_MAX} multiaddrs ${LISTEN_MULTIADDR_RULE}`,
    }),
  }),
  roots: key(upstreams, {
    description:
      'The root agents, all of them and the same on every host, the roots too: roots that do ' +
      'not know each other each read the registry. A `dns:` entry stands for every address of ' +
      'the name, such as a headless Kubernetes service.',
    rule:
      `a list of at most ${LIST_LENGTH_MAX} multiaddrs ${ROOT_RULE}; ` +
      'a child or relay needs at least one',
  }),
  untrustedRoots: key(list(item(text(isPeer), 'a peer id')).default([]), {
    description:
      'Peer ids of roots that are believed no more, such as those whose key was stolen: they ' +
      'are not asked, and blocks that they vouched for are refused, and dropped from the ' +
      'store when they are read. Restart the agents after a change.',
    rule: `a list of at most ${LIST_LENGTH_MAX} peer ids`,
  }),
  relays: key(upstreams, {
    description:
      "The relays of this host's group, such as the relays of its rack or zone, " +
      'for clusters of more than about 2,000 hosts. The host joins the trees at its relays, ' +
      'and asks the roots when no relay answers. Empty: the host joins at the roots.',
    rule: `a list of at most ${LIST_LENGTH_MAX} entries as in \`roots\``,
  }),
  store: z.strictObject({
    dir: key(path.default('/var/lib/xylem/store'), {
      description: 'Folder of the blocks that this host keeps.',
      rule: PATH_RULE,
    }),
    quota: key(quota.default(20 * 2 ** 30), {
      description: 'Most bytes in the store; beyond that it evicts the least recently used blocks.',
      rule: 'a size from 64MiB to 1PiB, such as 20GiB or a number of bytes',
    }),
  }),
  local: z.strictObject({
    listen: key(listenAddress.default('127.0.0.1:19145'), {
      description:
        'Address on which programs of this host (overlaybd, containerd) read blobs. ' +
        'Keep it on a loopback address.',
      rule: LISTEN_RULE,
    }),
    prefix: key(text((value) => /^[A-Za-z0-9._-]{0,64}$/.test(value)).default('dadip2p'), {
      description:
        "First part of the paths of overlaybd's requests, as in its `p2pConfig.address`; " +
        'may be empty.',
      rule: '0 to 64 letters, digits, ".", "_" or "-", without a slash',
    }),
    connectionsMax: key(count(1, CONNECTIONS_MAX_MAX).default(4096), {
      description:
        'Maximum number of connections from programs of this host; ' +
        'the agent closes further connections at once.',
      rule: `a whole number from 1 to ${CONNECTIONS_MAX_MAX}`,
    }),
    accessSeconds: key(count(0, ACCESS_SECONDS_MAX).default(300), {
      description:
        "How long a registry's answer that a program may read a repository stays valid. " +
        "Afterwards the agent asks the registry again, with the request's credentials.",
      rule: `a whole number of seconds from 0 to ${ACCESS_SECONDS_MAX}`,
    }),
    accessStaleSeconds: key(count(0, ACCESS_SECONDS_MAX).default(3600), {
      description:
        'How much longer that answer stays valid while the agent cannot reach the registry: ' +
        'no connection, silence or 5xx. A registry that asks for patience (429) is no such one.',
      rule: `a whole number of seconds from 0 to ${ACCESS_SECONDS_MAX}`,
    }),
  }),
  mirror: z.strictObject({
    tagSeconds: key(seconds.default(30), {
      description:
        'How long a root serves a tag to clients of the registry mirror ' +
        'before it asks the registry again.',
      rule: SECONDS_RULE,
    }),
    staleTagSeconds: key(seconds.default(0), {
      description:
        'How much longer a tag stays valid while the agent reaches neither a root ' +
        'nor the registry; 0: not at all. Manifests by digest stay valid in any case.',
      rule: SECONDS_RULE,
    }),
    defaultRegistry: key(text(isRegistryHost).optional(), {
      description:
        'Registry that clients mean which name none (`?ns=`): `docker.io` for the daemon of ' +
        'Docker; also skopeo, buildah and podman. Not set: the only one of `registries`.',
      rule: 'HOST or HOST:PORT',
    }),
  }),
  admin: z.strictObject({
    socket: key(socketPath.default(ADMIN_SOCKET), {
      description:
        'Unix socket of the admin endpoint, where `xylem status` and the other commands ask. ' +
        'A user who can open it may do everything: it has mode 0600, in a folder of mode 0700 ' +
        'that is made for it. `none`: there is no socket.',
      rule: SOCKET_RULE,
    }),
    socketGroup: key(count(0, GROUP_MAX).optional(), {
      description:
        'Number of a group (gid) that may use the socket too; its folder has mode 0750 and ' +
        'the socket 0660 then. Its members may do what the agent may, which is root in most ' +
        'places.',
      rule: `a whole number from 0 to ${GROUP_MAX}`,
    }),
    listen: key(listenAddress.default('0.0.0.0:19146'), {
      description:
        'Where probes, Prometheus and others with a token ask over TCP. Without a token it ' +
        'gives probes and metrics, from this host too.',
      rule: LISTEN_RULE,
    }),
    tokenFile: key(path.optional(), {
      description:
        'File of mode 0600 with a token of 32 characters or more. A client that sends it over ' +
        'TCP (`Authorization: Bearer TOKEN`) may do everything, such as start preheats as Harbor ' +
        'does. Read again when it changes.',
      rule: PATH_RULE,
    }),
    readTokenFile: key(path.optional(), {
      description:
        'The same for a token that shows everything and changes nothing: names of images, ' +
        'peers and folders.',
      rule: PATH_RULE,
    }),
  }),
  registries: key(
    list(registry)
      .refine((entries) => new Set(entries.map((entry) => entry.host)).size === entries.length)
      .default([]),
    {
      description:
        'What a registry needs beyond its name. These registries, and those of the default ' +
        'list, are believed: what they send for a digest counts for everybody. Blobs of ' +
        'others are shared in quarantine, by source.',
      rule:
        `a list of at most ${LIST_LENGTH_MAX} entries ` +
        `{${Object.keys(registryShape.shape).join(', ')}}, each host once`,
    },
  ),
  defaultRegistries: key(z.boolean().default(true), {
    description:
      'Whether the well-known public registries are believed too: ' +
      `${DEFAULT_SOURCES.map(({ host }) => host).join(', ')}. ` +
      'And whether the storage of Amazon ECR is.',
    rule: 'true or false',
  }),
  credentials: z.strictObject({
    dockerConfigs: key(paths, {
      description:
        'Docker config files such as /root/.docker/config.json, or directories that hold them. ' +
        'The agent runs the credential helpers that they name (`docker-credential-NAME`) ' +
        'as its own user. Read again when a registry asks for credentials.',
      rule: `a list of at most ${LIST_LENGTH_MAX} paths`,
    }),
    pullSecrets: key(paths, {
      description:
        'Mounted Kubernetes image pull secrets: files `.dockerconfigjson` or `.dockercfg`, ' +
        'directories that hold them, or directories of such directories. ' +
        'The agent does not run the helpers that they name. ' +
        'Read again when a registry asks for credentials.',
      rule: `a list of at most ${LIST_LENGTH_MAX} paths`,
    }),
  }),
  limits: z.strictObject({
    uploadBytesPerSecond: key(rate, {
      description: 'Most block bytes per second to other agents, demand first. Not set: no limit.',
      rule: RATE_RULE,
    }),
    downloadBytesPerSecond: key(rate, {
      description:
        'Most block bytes per second requested from other agents and from registries, ' +
        'demand first. Not set: no limit.',
      rule: RATE_RULE,
    }),
    originReads: key(count(1, ORIGIN_READS_MAX).default(32), {
      description:
        'Maximum number of blocks being read from one registry at a time. Of several, each ' +
        'has a quarter of it for itself, and they share the rest.',
      rule: `a whole number from 1 to ${ORIGIN_READS_MAX}`,
    }),
    registryRequestsPerSecond: key(count(1, REQUESTS_PER_SECOND_MAX).optional(), {
      description:
        'Most requests to each registry and to each mirror (to `/v2/` of its host): those of ' +
        'this host, with its credentials or without, and those of local clients. ' +
        'Token servers and storage count apart. Not set: no limit.',
      rule: `a whole number from 1 to ${REQUESTS_PER_SECOND_MAX}`,
    }),
  }),
  acceleration: z.strictObject({
    enabled: key(z.boolean().default(false), {
      description:
        'Whether this root makes block images of ordinary ones on request (ACCELERATION.md). ' +
        'Needs e2fsprogs, and the right to push there.',
      rule: 'true or false; a root alone',
    }),
    concurrent: key(count(1, CONCURRENT_MAX).default(1), {
      description: 'Conversions at a time. Each has about 300 MiB of memory and one core.',
      rule: `a whole number from 1 to ${CONCURRENT_MAX}`,
    }),
    workDir: key(absolutePath.default('/var/lib/xylem/convert'), {
      description:
        'Folder for temporary files, of this agent alone, with room for the uncompressed images. ' +
        'Conversions run as `nobody` where the agent is root: any user must be able to pass ' +
        'through the folders above.',
      rule: 'an absolute path',
    }),
    watchSeconds: key(count(10, SECONDS_MAX).default(300), {
      description: 'How often the registry is asked whether a tag has moved.',
      rule: `a whole number of seconds from 10 to ${SECONDS_MAX}`,
    }),
    keepSeconds: key(count(0, KEEP_SECONDS_MAX).default(30 * 24 * 3600), {
      description:
        'How long block images of earlier versions, and kept layers, stay in the registry once ' +
        'nothing needs them: running containers may still read them. 0: always.',
      rule: `a whole number of seconds from 0 to ${KEEP_SECONDS_MAX}`,
    }),
    compression: key(z.enum(['lz4', 'zstd']).default('lz4'), {
      description:
        'How blocks are compressed. With lz4 hosts need the least CPU, with zstd and 16KiB they ' +
        'read a quarter fewer bytes (IMAGES.md, "Which blocks").',
      rule: '"lz4" or "zstd"',
    }),
    blockSize: key(z.enum(['4KiB', '8KiB', '16KiB', '32KiB']).default('4KiB'), {
      description: 'Bytes that are compressed together.',
      rule: '"4KiB", "8KiB", "16KiB" or "32KiB"',
    }),
    tagSuffix: key(text((value) => /^[A-Za-z0-9._-]{0,32}$/.test(value)).default(''), {
      description: 'Block images get the tag of the original with this suffix; empty: no tag.',
      rule: '0 to 32 letters, digits, ".", "_" or "-"',
    }),
    allPlatforms: key(z.boolean().default(false), {
      description: 'Of a multi-platform image, all Linux platforms; not that of this host alone.',
      rule: 'true or false',
    }),
  }),
  device: deviceKeys,
  log: z.strictObject({
    level: key(z.enum(['debug', 'info', 'warn', 'error']).default('info'), {
      description: 'Least severe level of log lines.',
      rule: '"debug", "info", "warn" or "error"',
    }),
  }),
});

/**
 * A checked configuration with its defaults. Sizes are bytes; addresses and paths are as the user
 * gave them.
 */
export type Config = z.output<typeof configSchema>;
