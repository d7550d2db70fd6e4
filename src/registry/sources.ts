import { isIP } from 'node:net';
import { isPublicAddress } from './http/public-address.ts';
import type { BlobOrigin } from '../image/block.ts';
import { isRegistryHost } from './hosts.ts';
import { registryName } from './reference.ts';
import type { UrlShape } from './url-shape.ts';

/** A registry that the configuration names, with the storages to which it redirects. */
export interface SourceEntry {
  readonly host: string;
  readonly insecure?: boolean | undefined;
  /** Prefixes: see `storagePrefixFault()`. */
  readonly storage?: readonly string[] | undefined;
  /** Prefixes below which objects without a digest in their path are blobs too. */
  readonly opaqueStorage?: readonly string[] | undefined;
}

/**
 * Registries that clusters use without configuring them, and the buckets and CDNs to which they
 * redirect, as seen in answers of these registries. `defaultRegistries: false` drops them. A bucket
 * on a shared host is named with its path.
 */
export const DEFAULT_SOURCES: readonly SourceEntry[] = [
  {
    host: 'docker.io',
    storage: [
      'https://production.cloudflare.docker.com/registry-v2/docker/registry/v2/blobs/',
      'https://docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com/registry-v2/docker/registry/v2/blobs/',
    ],
  },
  { host: 'ghcr.io', storage: ['https://pkg-containers.githubusercontent.com/ghcr1/blobs/'] },
  {
    host: 'quay.io',
    storage: ['01', '02', '03'].map((n) => `https://cdn${n}.quay.io/quayio-production-s3/`),
  },
  { host: 'mcr.microsoft.com', storage: ['https://*.data.mcr.microsoft.com/'] },
  { host: 'registry.k8s.io' },
  { host: 'gcr.io' },
  { host: 'public.ecr.aws' },
  { host: 'registry.gitlab.com' },
  { host: 'nvcr.io' },
];

/** A region of AWS, as `us-gov-east-1`. */
const REGION = '([a-z]{2}(?:-[a-z]+){1,3}-[1-9])';

/**
 * The buckets of Amazon ECR, one per region, as AWS names them to those who have to let their hosts
 * reach them. A pattern, since a label has to name the region of its bucket: a wildcard would cover
 * buckets of anybody, and a list would lack the next region. To take such a name
 * before ECR does gains nothing: blocks of this storage serve only requests that name it.
 */
const DEFAULT_OPAQUE_STORAGES: readonly RegExp[] = [
  new RegExp(
    `^https://prod-${REGION}-starport-layer-bucket\\.` +
      's3(?:\\.dualstack)?\\.\\1\\.amazonaws\\.com(?:\\.cn)?/$',
  ),
];

/**
 * Names below which anybody can have a bucket or a site: neither a wildcard above it nor the bare
 * host names one owner.
 */
const SHARED = [
  'akamaihd.net',
  'akamaized.net',
  'aliyuncs.com',
  'amazonaws.com',
  'amazonaws.com.cn',
  'azureedge.net',
  'azurefd.net',
  'b-cdn.net',
  'backblazeb2.com',
  'bcebos.com',
  'cdn77.org',
  'cloudflarestorage.com',
  'cloudfront.net',
  'core.windows.net',
  'digitaloceanspaces.com',
  'edgekey.net',
  'fastly.net',
  'github.io',
  'gitlab.io',
  'googleapis.com',
  'googleusercontent.com',
  'herokuapp.com',
  'linodeobjects.com',
  'myhuaweicloud.com',
  'myqcloud.com',
  'netlify.app',
  'oraclecloud.com',
  'ovh.net',
  'pages.dev',
  'r2.dev',
  'scw.cloud',
  'vercel.app',
  'volces.com',
  'wasabisys.com',
  'windows.net',
  'workers.dev',
];

/** Second-level labels under which countries register names: `co.uk`, `com.cn`. */
const REGISTRY_LABELS = new Set(['ac', 'co', 'com', 'edu', 'gov', 'ne', 'net', 'or', 'org']);

/** Hosts of object storages that serve every bucket below a path. */
const PATH_STYLE = /^(?:s3[.-]|storage\.|oss-|cos\.|obs\.|objects?\.|[^.]+\.r2\.)/;

const PREFIX = /^(https?):\/\/([^/?#@]+)(\/[^?#]*)?$/;

/**
 * Why the text is no storage prefix, or undefined when it is one: `http[s]://HOST[:PORT]/[PATH/]`.
 * `*` stands for one label of the host. A wildcard must not stand above a name that anybody may
 * register, and a host that many share needs the path of the bucket.
 */
export function storagePrefixFault(text: string): string | undefined {
  const match = PREFIX.exec(text);
  if (match === null) return 'it is no URL http[s]://HOST[:PORT]/[PATH/]';
  const [, , authority = '', path = '/'] = match;
  const host = authority.replace(/:[0-9]+$/, '').toLowerCase();
  if (!isRegistryHost(authority.replaceAll('*', 'x'))) return 'its host is no HOST or HOST:PORT';
  if (path !== '/' && !path.endsWith('/')) return 'its path does not end with "/"';
  if (/(?:^|\/)\.{1,2}(?=\/|$)|%|\\/.test(path)) return 'its path holds dot segments or encodings';
  const shared = SHARED.find((name) => host === name || host.endsWith(`.${name}`));
  const labels = host.split('.');
  const lastStar = labels.lastIndexOf('*');
  if (labels.some((label) => label.includes('*') && label !== '*')) {
    return '"*" stands for a whole label';
  }
  if (lastStar >= 0) {
    const fixed = labels.slice(lastStar + 1);
    const isCountry = fixed.length === 2 && REGISTRY_LABELS.has(fixed[0] ?? '');
    if (fixed.length < 2 || isCountry || shared !== undefined) {
      return (
        'anybody may register a name that its wildcard covers: ' +
        'name the bucket or the CDN itself'
      );
    }
  }
  const isBucketHost = shared !== undefined && host !== shared && !PATH_STYLE.test(host);
  if (shared !== undefined && !isBucketHost && path === '/') {
    return `${host} is shared by many: add the path of the bucket`;
  }
  return undefined;
}

interface Prefix {
  readonly scheme: string;
  readonly labels: readonly string[];
  readonly port: string;
  readonly path: string;
}

/**
 * The sources that this host believes by its configuration: what they send counts for everybody who
 * asks for the digest. Roots decide with it for the cluster. Pure: no request is made.
 */
export class BelievedSources {
  readonly #insecure = new Map<string, boolean>();
  readonly #storages: readonly Prefix[];
  readonly #opaque: readonly Prefix[];
  readonly #opaqueDefaults: readonly RegExp[];

  constructor(init: { readonly registries: readonly SourceEntry[]; readonly defaults: boolean }) {
    const entries = [...(init.defaults ? DEFAULT_SOURCES : []), ...init.registries];
    for (const { host, insecure } of entries) {
      this.#insecure.set(registryName(host), insecure === true);
    }
    this.#storages = entries.flatMap(({ storage = [] }) => storage.map(readPrefix));
    this.#opaque = entries.flatMap(({ opaqueStorage = [] }) => opaqueStorage.map(readPrefix));
    this.#opaqueDefaults = init.defaults ? DEFAULT_OPAQUE_STORAGES : [];
  }

  /** Whether the configuration, or the default list, names this registry. */
  isRegistry(host: string): boolean {
    return this.#insecure.has(registryName(host));
  }

  /** Whether what this URL sends is believed. Plain HTTP only where the configuration says so. */
  believes(shape: UrlShape): boolean {
    if (shape.kind === 'registry') {
      const insecure = this.#insecure.get(registryName(shape.host));
      return insecure !== undefined && (insecure || shape.scheme === 'https');
    }
    return shape.kind === 'storage' && this.believesStorage(shape.prefix);
  }

  /** Whether blobs of this origin are believed. */
  believesOrigin({ registry, storage, opaque }: BlobOrigin): boolean {
    if (opaque !== undefined) return this.believesOpaque({ storage: storage ?? '', ...opaque });
    return storage === undefined ? this.isRegistry(registry) : this.believesStorage(storage);
  }

  /**
   * Whether objects without a digest in their path are shared: those at this path of this storage
   * (`OpaqueUrl.storage`). It says nothing of paths with a digest there.
   */
  believesOpaque({ storage, path }: { readonly storage: string; readonly path: string }): boolean {
    if (this.#opaqueDefaults.some((pattern) => pattern.test(storage))) return true;
    if (this.#opaque.length === 0) return false;
    const asked = readPrefix(`${storage}${path}`);
    return this.#opaque.some((known) => covers(known, asked));
  }

  /** Whether a storage prefix (`UrlShape.prefix`) lies below a configured one. */
  believesStorage(prefix: string): boolean {
    if (this.#storages.length === 0) return false;
    const asked = readPrefix(prefix);
    return this.#storages.some((known) => covers(known, asked));
  }
}

/** The line of the configuration that makes a source believed. */
export function configurationLine(shape: UrlShape): string {
  if (shape.kind === 'registry') return `registries: [{host: "${registryName(shape.host)}"}]`;
  if (shape.kind === 'storage') return `registries[].storage: ["${shape.prefix}"]`;
  return '';
}

function readPrefix(text: string): Prefix {
  const [, scheme = '', authority = '', path = '/'] = PREFIX.exec(text) ?? [];
  const [, host = '', port] = /^(.*?)(?::([0-9]+))?$/.exec(authority.toLowerCase()) ?? [];
  const usual = scheme === 'http' ? '80' : '443';
  return { scheme, labels: host.split('.'), port: port ?? usual, path };
}

function covers(known: Prefix, asked: Prefix): boolean {
  return (
    known.scheme === asked.scheme &&
    known.port === asked.port &&
    known.labels.length === asked.labels.length &&
    known.labels.every((label, i) => label === '*' || label === asked.labels[i]) &&
    asked.path.startsWith(known.path)
  );
}

/**
 * Whether roots may read a source that nobody configured at this host: port 443 of a name or a
 * public address. That the name resolves to a public address is checked when the connection is
 * made.
 */
export function isPublicHttps(authority: string): boolean {
  const [, host = '', port = '443'] = /^(.*?)(?::([0-9]+))?$/.exec(authority) ?? [];
  return port === '443' && isPublicHost(host.replace(/^\[(.*)\]$/, '$1'));
}

/**
 * Names of this machine and of clusters' inside are no public hosts, nor are addresses of these.
 */
function isPublicHost(host: string): boolean {
  if (isIP(host) !== 0) return isPublicAddress(host);
  return /\./.test(host) && !/(^|\.)(localhost|local|internal|lan|home|corp)\.?$/i.test(host);
}
