import { z } from 'zod';
import { ADDRESSES_MAX } from '../../net/limits.ts';
import { parseSizeBytes } from '../../util/sizes.ts';
import { isDialMultiaddr, isDnsRoot, isListenMultiaddr, isPeer } from './multiaddrs.ts';
import { isProxyUrl, isRegistryHost, parseListenAddress } from '../../registry/hosts.ts';

/** Entries in any list of the configuration. */
const LIST_LENGTH_MAX = 64;

/** A store smaller than one large layer's working set evicts what it has just fetched. */
const QUOTA_BYTES_MIN = 64 * 2 ** 20;
const QUOTA_BYTES_MAX = 2 ** 50;

/** Slower, a block of 256 KiB takes longer than the others wait before they ask elsewhere. */
const RATE_BYTES_MIN = 2 ** 20;
const RATE_BYTES_MAX = 2 ** 40;

/** Each holds a block: 64 MiB. */
const ORIGIN_READS_MAX = 256;
const REQUESTS_PER_SECOND_MAX = 100_000;
/** Linux: the most files that a process may have open by default in systemd's units is 524,288; a connection is one. */
const CONNECTIONS_MAX_MAX = 65_536;

/** A day: who has lost a right to read keeps it no longer than that. */
const ACCESS_SECONDS_MAX = 86_400;

/** Linux: PATH_MAX. */
const PATH_LENGTH_MAX = 4096;

/** What a person reads about a key: in docs/CONFIGURATION.md, in `xylem agent --help` and in error lines. */
interface Words {
  readonly description: string;
  /** Completes "must be ...". */
  readonly rule: string;
  /** Of a number that is no size in bytes. */
  readonly unit?: 'count' | 'seconds';
}

function key<S extends z.ZodType>(schema: S, words: Words): S {
  return schema.meta({ ...words });
}

function text(accepts: (value: string) => boolean): z.ZodString {
  return z.string().refine(accepts);
}

function list<S extends z.ZodType>(element: S): z.ZodArray<S> {
  return z.array(element).max(LIST_LENGTH_MAX);
}

const path = text(
  (value) => value.length > 0 && value.length <= PATH_LENGTH_MAX && !value.includes('\0'),
);
const listenAddress = text((value) => parseListenAddress(value) !== undefined);
const PATH_RULE = `a path of 1 to ${PATH_LENGTH_MAX} characters; a relative one starts at the working directory`;
const LISTEN_RULE = 'HOST:PORT, an IPv6 host in brackets; port 0 lets the system choose';

function size(min: number, max: number) {
  return z
    .union([z.string(), z.number()])
    .transform((value) => (typeof value === 'number' ? value : parseSizeBytes(value)))
    .pipe(z.int().min(min).max(max))
    .meta({ unit: 'bytes' });
}

/** A whole number; from flags and variables it comes as text. */
function count(min: number, max: number) {
  return z
    .union([z.string().regex(/^[0-9]{1,9}$/), z.number()])
    .transform(Number)
    .pipe(z.int().min(min).max(max));
}

const quota = size(QUOTA_BYTES_MIN, QUOTA_BYTES_MAX);
const rate = size(RATE_BYTES_MIN, RATE_BYTES_MAX).optional();
const RATE_RULE = 'a size a second from 1MiB to 1TiB, such as 100MiB or a count of bytes';

/** A week. */
const SECONDS_MAX = 7 * 24 * 3600;
const SECONDS_RULE = `a count of seconds from 0 to ${SECONDS_MAX}`;
const seconds = count(0, SECONDS_MAX);

const registryShape = z.strictObject({
  host: key(text(isRegistryHost), {
    description: 'The registry as image references name it.',
    rule: 'HOST or HOST:PORT',
  }),
  insecure: key(z.boolean().default(false), {
    description: 'Speak plain HTTP to it.',
    rule: 'true or false',
  }),
  caFile: key(path.optional(), {
    description: 'PEM file of the authorities that sign its certificate, beside the usual ones.',
    rule: PATH_RULE,
  }),
  credentialsFile: key(path.optional(), {
    description:
      'File with one line `user:password`, readable by the agent alone. Comes before what `credentials` names.',
    rule: PATH_RULE,
  }),
  certFile: key(path.optional(), {
    description:
      'PEM file of a certificate, with those between it and its authority, that is shown to this server alone when it asks for one. Read at the start.',
    rule: `${PATH_RULE}; with clientKeyFile or not at all`,
  }),
  clientKeyFile: key(path.optional(), {
    description: 'PEM file of its key, without a passphrase, readable by the agent alone.',
    rule: `${PATH_RULE}; with certFile or not at all`,
  }),
  proxy: key(text((value) => value === 'none' || isPlainProxy(value)).optional(), {
    description:
      'Proxy for this registry, its token server and its storage, or `none`. Not set: as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say.',
    rule: '"none" or http[s]://HOST[:PORT]; a proxy that wants a password goes into HTTPS_PROXY',
  }),
  mirrors: key(list(text(isMirrorUrl)).default([]), {
    description:
      'Servers to ask before it, in this order. One is asked with what the entry of its own host says, never with the credentials or the certificate of the registry.',
    rule: `a list of at most ${LIST_LENGTH_MAX} URLs http[s]://HOST[:PORT]`,
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

function isMirrorUrl(value: string): boolean {
  const match = /^https?:\/\/([^/?#@]+)\/?$/.exec(value);
  return match !== null && isRegistryHost(match[1] ?? '');
}

/**
 * The configuration of an agent: every key with its default, its description and its rule.
 * The YAML file, the flags, the XYLEM_* variables, docs/CONFIGURATION.md and the error lines all follow from here.
 */
export const configSchema = z.strictObject({
  role: key(z.enum(['root', 'relay', 'child']).default('child'), {
    description:
      'A `root` reads from registries and keeps the trees; a `relay` keeps the part of the trees of one group of hosts, below the roots; a `child` fetches from its parents in them.',
    rule: '"root", "relay" or "child"',
  }),
  identity: z.strictObject({
    keyFile: key(path.default('/var/lib/xylem/identity.key'), {
      description:
        'The key that names this host to others. Made at the first start; keep it, and never copy it to another host.',
      rule: PATH_RULE,
    }),
  }),
  cluster: z.strictObject({
    keyFile: key(path.default('/etc/xylem/cluster.key'), {
      description:
        'The secret that admits agents to the cluster, the same on every host: 32 to 4096 bytes, for instance from `openssl rand -hex 32`. While it is being replaced, the new one and the old one, a line each; read again when it changes.',
      rule: PATH_RULE,
    }),
    rootsAuthority: key(path.optional(), {
      description:
        'File with the public key (Ed25519, PEM or base64) that certifies the roots, the same on every host. With it a root that `roots` names without its id must show a certificate. `xylem cluster init` makes it.',
      rule: PATH_RULE,
    }),
    rootCertFile: key(path.optional(), {
      description:
        'File with the certificate of this host, when it is a root. Not set: `root.cert` beside `identity.keyFile`, if there is one.',
      rule: PATH_RULE,
    }),
  }),
  zone: key(text((value) => /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(value)).default('default'), {
    description:
      'Failure and bandwidth domain of this host, such as its rack or its availability zone. A block crosses into a zone once.',
    rule: '1 to 63 letters, digits, ".", "_" or "-", the first a letter or digit',
  }),
  p2p: z.strictObject({
    listen: key(list(text(isListenMultiaddr)).min(1).default(['/ip4/0.0.0.0/tcp/19147']), {
      description: 'Where other agents reach this one.',
      rule: `a list of 1 to ${LIST_LENGTH_MAX} multiaddrs /ip4|ip6/ADDRESS/tcp/PORT`,
    }),
    announce: key(z.array(text(isListenMultiaddr)).max(ADDRESSES_MAX).default([]), {
      description:
        'Addresses to tell others instead of those listened on, where they differ (address translation, several networks). Without it others try the address that this host is seen under first.',
      rule: `a list of at most ${ADDRESSES_MAX} multiaddrs /ip4|ip6/ADDRESS/tcp/PORT`,
    }),
  }),
  roots: key(list(text((value) => isDialMultiaddr(value) || isDnsRoot(value))).default([]), {
    description:
      'The root agents. A `dns:` entry stands for every address of the name, such as a headless Kubernetes service.',
    rule: `a list of at most ${LIST_LENGTH_MAX} multiaddrs /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/PEER] or dns:NAME:PORT; a child or relay needs one at least`,
  }),
  untrustedRoots: key(list(text(isPeer)).default([]), {
    description:
      'Peer ids of roots that are believed no more, such as those whose key was stolen: they are not asked, and blocks that they vouched for are refused, and dropped from the store when they are read. Restart the agents after a change.',
    rule: `a list of at most ${LIST_LENGTH_MAX} peer ids`,
  }),
  relays: key(list(text((value) => isDialMultiaddr(value) || isDnsRoot(value))).default([]), {
    description:
      'The relays of the group of this host, such as those of its rack or zone: it joins the trees at them, and the roots are asked when none of them answers. For clusters of more than about 2,000 hosts. Empty: it joins at the roots.',
    rule: `a list of at most ${LIST_LENGTH_MAX} entries as in \`roots\``,
  }),
  store: z.strictObject({
    dir: key(path.default('/var/lib/xylem/store'), {
      description: 'Folder of the blocks that this host keeps.',
      rule: PATH_RULE,
    }),
    quota: key(quota.default(20 * 2 ** 30), {
      description: 'Most bytes that the store keeps; beyond it the blocks used least recently go.',
      rule: 'a size from 64MiB to 1PiB, such as 20GiB or a count of bytes',
    }),
  }),
  local: z.strictObject({
    listen: key(listenAddress.default('127.0.0.1:19145'), {
      description:
        'Where programs of this host (overlaybd, containerd) read blobs. Keep it on a loopback address.',
      rule: LISTEN_RULE,
    }),
    prefix: key(text((value) => /^[A-Za-z0-9._-]{0,64}$/.test(value)).default('dadip2p'), {
      description:
        "First part of the paths of overlaybd's requests, as in its `p2pConfig.address`. May be empty.",
      rule: '0 to 64 letters, digits, ".", "_" or "-", without a slash',
    }),
    connectionsMax: key(count(1, CONNECTIONS_MAX_MAX).default(4096), {
      description:
        'Connections that programs of this host may hold; what comes beyond is closed at once.',
      rule: `a whole number from 1 to ${CONNECTIONS_MAX_MAX}`,
    }),
    accessSeconds: key(count(0, ACCESS_SECONDS_MAX).default(300), {
      description:
        "How long a registry's word that a program may read a repository is believed, before it is asked again with the credentials of the request.",
      rule: `a whole number of seconds from 0 to ${ACCESS_SECONDS_MAX}`,
    }),
    accessStaleSeconds: key(count(0, ACCESS_SECONDS_MAX).default(3600), {
      description: 'How much longer it is believed while the registry cannot be asked.',
      rule: `a whole number of seconds from 0 to ${ACCESS_SECONDS_MAX}`,
    }),
  }),
  mirror: z.strictObject({
    tagSeconds: key(seconds.default(30), {
      description:
        'How long a root believes what a tag stands for before it asks the registry again, for clients of the registry mirror.',
      rule: SECONDS_RULE,
    }),
    staleTagSeconds: key(seconds.default(0), {
      description:
        'How much longer a tag is believed while neither a root nor the registry can be reached; 0 for not at all. Manifests by digest are kept in any case.',
      rule: SECONDS_RULE,
    }),
  }),
  admin: z.strictObject({
    listen: key(listenAddress.default('0.0.0.0:19146'), {
      description:
        'Where probes, Prometheus and `xylem status` ask. Requests that change something are answered on loopback alone (but see `admin.tokenFile`).',
      rule: LISTEN_RULE,
    }),
    tokenFile: key(path.optional(), {
      description:
        'File with a token of 32 characters or more. Who sends it (`Authorization: Bearer TOKEN`) may ask for preheats from other hosts too, as Harbor does. Read at each use.',
      rule: PATH_RULE,
    }),
  }),
  registries: key(
    list(registry)
      .refine((entries) => new Set(entries.map((entry) => entry.host)).size === entries.length)
      .default([]),
    {
      description:
        'What a registry needs beyond its name; those not listed are asked over HTTPS, anonymously.',
      rule: `a list of at most ${LIST_LENGTH_MAX} entries {${Object.keys(registryShape.shape).join(', ')}}, each host once`,
    },
  ),
  credentials: z.strictObject({
    dockerConfigs: key(list(path).default([]), {
      description:
        'Docker config files such as /root/.docker/config.json, or directories that hold them. Credential helpers that they name (`docker-credential-NAME`) are run as the user of the agent. Read again when a registry asks for credentials.',
      rule: `a list of at most ${LIST_LENGTH_MAX} paths`,
    }),
    pullSecrets: key(list(path).default([]), {
      description:
        'Kubernetes image pull secrets as they are mounted: files `.dockerconfigjson` or `.dockercfg`, directories that hold them, or directories of such directories. Helpers that they name are not run. Read again when a registry asks for credentials.',
      rule: `a list of at most ${LIST_LENGTH_MAX} paths`,
    }),
  }),
  limits: z.strictObject({
    uploadBytesPerSecond: key(rate, {
      description:
        'Most block bytes that are sent to other agents, demand first. Not set: no limit.',
      rule: RATE_RULE,
    }),
    downloadBytesPerSecond: key(rate, {
      description:
        'Most block bytes that are asked of other agents and of registries, demand first. Not set: no limit.',
      rule: RATE_RULE,
    }),
    originReads: key(count(1, ORIGIN_READS_MAX).default(32), {
      description: 'Blocks that are read from registries at a time.',
      rule: `a whole number from 1 to ${ORIGIN_READS_MAX}`,
    }),
    registryRequestsPerSecond: key(count(1, REQUESTS_PER_SECOND_MAX).optional(), {
      description:
        'Most requests to each registry and to each mirror, by each of two clients: the one with credentials, and the one without that finds out what is public. ' +
        'Token servers and storage count apart. Requests with the credentials or the URL of a local client are not limited. Not set: no limit.',
      rule: `a whole number from 1 to ${REQUESTS_PER_SECOND_MAX}`,
    }),
  }),
  device: z.strictObject({
    enabled: key(z.boolean().default(false), {
      description:
        "Serve the block devices from the agent's own process, for development: containers on them die with it.",
      rule: 'true or false',
    }),
    stateDir: key(path.default('/run/xylem/device'), {
      description: 'Folder of the records of what is mounted, and of the FUSE mounts.',
      rule: PATH_RULE,
    }),
  }),
  log: z.strictObject({
    level: key(z.enum(['debug', 'info', 'warn', 'error']).default('info'), {
      description: 'Least severe lines to log.',
      rule: '"debug", "info", "warn" or "error"',
    }),
  }),
});

/** A checked configuration, defaults filled in. Sizes are bytes; addresses and paths are as they were given. */
export type Config = z.output<typeof configSchema>;
