import { setTimeout as sleep } from 'node:timers/promises';
import { parseByteRange } from '../../src/edge/http/byte-range.ts';
import { digestOf } from '../kit/registry-content.ts';
import { answerSoundly } from '../kit/fake-registry.ts';
import { REPOSITORY, TOKEN, USER, type Ask, type StandIn } from './stand-in.ts';

/** One way in which registries, their storages and what stands before them behave. */
export interface ServerKind {
  readonly name: string;
  /** Servers that do so, or the reason. */
  readonly seen: string;
  /** Turns a sound stand-in into this kind. */
  set(standIn: StandIn): void;
  /** Whether clients, and whether the roots, have the credentials of `USER`, or wrong ones. */
  readonly clients?: 'right';
  readonly roots?: 'right' | 'wrong';
  /** Further keys of the registry in the agents' configuration. */
  readonly entry?: (standIn: StandIn) => object;
  /** Whether its storage is a registry of the configuration too. */
  readonly isLed?: boolean;
}

const BASIC = `Basic ${Buffer.from(`${USER.username}:${USER.password}`).toString('base64')}`;
const BASIC_CHALLENGE = { 'www-authenticate': 'Basic realm="stand-in"' };

function bearer(host: string, scope = `repository:${REPOSITORY}:pull`): Record<string, string> {
  const realm = `http://${host}/token`;
  return { 'www-authenticate': `Bearer realm="${realm}",service="stand-in",scope="${scope}"` };
}

/** The storage that the registry redirects to. */
const redirect =
  (standIn: StandIn) =>
  (ask: Ask): boolean => {
    if (ask.part !== 'blob' || ask.blob === undefined) return false;
    return ask.answer(307, { location: standIn.storage.signedUrl(ask.blob, `sig=${ask.earlier}`) });
  };

const asStorage = (standIn: StandIn): object => ({
  storage: [`http://${standIn.storage.address}/docker/`],
});

/** A registry that answers HEAD of blobs with this status, and else is sound. */
function headIs(status: number, seen: string): ServerKind {
  return {
    name: `HEAD of a blob is ${status}`,
    seen,
    set: (standIn) =>
      standIn.answerBy('registry', (ask) =>
        ask.part === 'blob' && ask.method === 'HEAD' ? ask.answer(status) : false,
      ),
  };
}

/** A registry that answers GET of the large layer with this status. */
function getIs(status: number, seen: string): ServerKind {
  return {
    name: `GET of one layer is ${status}`,
    seen,
    set: (standIn) =>
      standIn.answerBy('registry', (ask) =>
        ask.blob === standIn.blobs[3] && ask.method === 'GET' ? ask.answer(status) : false,
      ),
  };
}

/** Answers all GETs of blobs, as told. */
function blobsBy(answer: (ask: Ask & { readonly bytes: Buffer }) => boolean | Promise<boolean>) {
  return (standIn: StandIn): void =>
    standIn.answerBy('registry', (ask) => {
      if (ask.part !== 'blob' || ask.blob === undefined || ask.method !== 'GET') return false;
      return answer({ ...ask, bytes: ask.blob.bytes });
    });
}

/** Answers all GETs of manifests, as told. */
function manifestsBy(answer: (ask: Ask) => boolean) {
  return (standIn: StandIn): void =>
    standIn.answerBy('registry', (ask) => ask.part === 'manifest' && answer(ask));
}

/** All of the blob, whatever the range. */
function wholeBlob({ response, bytes }: Ask & { readonly bytes: Buffer }): true {
  response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
  return true;
}

/** A part of the blob with a header of its own. */
function part(
  ask: Ask & { readonly bytes: Buffer },
  headers: (first: number, last: number, total: number) => Record<string, string>,
  longest = Infinity,
): boolean {
  const range = parseByteRange(ask.headers.range, ask.bytes.length);
  if (typeof range === 'string') return false;
  const end = range.offset + Math.min(longest, range.length);
  const body = ask.bytes.subarray(range.offset, end);
  const total = ask.bytes.length;
  ask.response
    .writeHead(206, { 'content-length': body.length, ...headers(range.offset, end - 1, total) })
    .end(body);
  return true;
}

const soundRange = (first: number, last: number, total: number): Record<string, string> => ({
  'content-range': `bytes ${first}-${last}/${total}`,
});

/** Nothing for so long; a client that leaves starts it anew. */
function silentFor(seconds: number): ServerKind {
  return {
    name: `no byte of a blob for ${seconds} s, from the start for each request`,
    seen: 'caches that fetch all before they send (nora#1001); scanners',
    set: (standIn) => {
      const ready = new Set<string>();
      blobsBy(async ({ blob, response }) => {
        if (blob === undefined || ready.has(blob.hex)) return false;
        const left = new AbortController();
        response.once('close', () => left.abort());
        await sleep(seconds * 1000, undefined, { signal: left.signal }).catch(() => {});
        if (!left.signal.aborted) ready.add(blob.hex);
        return left.signal.aborted;
      })(standIn);
    },
  };
}

/** Answers without credentials by `refuse`; `/v2/` challenges for Basic. */
function hidden(name: string, seen: string, refuse: (ask: Ask) => true): ServerKind {
  return {
    name,
    seen,
    clients: 'right',
    roots: 'right',
    set: (standIn) =>
      standIn.answerBy('registry', (ask) => {
        if (ask.headers.authorization === BASIC) return false;
        return ask.part === 'ping' ? ask.answer(401, BASIC_CHALLENGE) : refuse(ask);
      }),
  };
}

const wantsBasic = (standIn: StandIn): void =>
  standIn.answerBy('registry', (ask) =>
    ask.headers.authorization === BASIC ? false : ask.answer(401, BASIC_CHALLENGE),
  );

/** A registry with tokens; `grant` answers requests for one. */
function wantsToken(
  grant: (ask: Ask) => boolean = (ask) => ask.answer(200, {}, JSON.stringify({ token: TOKEN })),
  more: (ask: Ask, standIn: StandIn) => boolean | Promise<boolean> = () => false,
) {
  return (standIn: StandIn): void =>
    standIn.answerBy('registry', (ask) => {
      if (ask.part === 'token') return grant(ask);
      if (ask.headers.authorization === `Bearer ${TOKEN}`) return more(ask, standIn);
      return ask.answer(401, bearer(standIn.host));
    });
}

const tokenForUser = (ask: Ask): true =>
  ask.headers.authorization === BASIC
    ? ask.answer(200, {}, JSON.stringify({ token: TOKEN }))
    : ask.answer(401);

export const SERVER_KINDS: readonly ServerKind[] = [
  { name: 'sound', seen: 'docker-registry', set: (to) => to.answerBy('registry', () => false) },
  {
    name: 'blobs at a storage',
    seen: 'most registries',
    entry: asStorage,
    set: (to) => to.answerBy('registry', redirect(to)),
  },
  {
    name: 'blobs at a storage whose URLs are good for GET alone',
    seen: 'S3, OSS, GCS',
    entry: asStorage,
    set: (to) => {
      to.answerBy('registry', redirect(to));
      to.answerBy('storage', (ask) => (ask.method === 'HEAD' ? ask.answer(403) : false));
    },
  },
  {
    name: 'blobs at a storage that the configuration does not name',
    seen: 'CDNs',
    set: (to) => to.answerBy('registry', redirect(to)),
  },
  {
    name: 'HEAD of a blob is 401, also with a token',
    seen: 'Amazon ECR Public',
    set: wantsToken(undefined, (ask, to) =>
      ask.part === 'blob' && ask.method === 'HEAD' ? ask.answer(401, bearer(to.host)) : false,
    ),
  },
  headIs(403, 'registries behind storages'),
  headIs(404, 'proxy caches before they have a blob (harbor#22609)'),
  headIs(400, 'proxies'),
  headIs(405, 'static files behind proxies'),
  headIs(501, 'simple servers'),
  headIs(503, 'caches under load'),
  {
    name: 'HEAD of a blob has no length',
    seen: 'chunked answers',
    set: (to) =>
      to.answerBy('registry', (ask) => {
        if (ask.part !== 'blob' || ask.method !== 'HEAD') return false;
        ask.response.writeHead(200).end();
        return true;
      }),
  },
  {
    name: 'HEAD of a blob says length 0',
    seen: 'frameworks that drop bodies',
    set: (to) =>
      to.answerBy('registry', (ask) =>
        ask.part === 'blob' && ask.method === 'HEAD' ? ask.answer(200) : false,
      ),
  },
  {
    name: 'HEAD of a blob redirects to a page that is 404',
    seen: 'login portals',
    set: (to) =>
      to.answerBy('registry', (ask) =>
        ask.part === 'blob' && ask.method === 'HEAD'
          ? ask.answer(302, { location: '/login' })
          : false,
      ),
  },
  {
    name: 'Basic, everybody has it',
    seen: 'htpasswd',
    clients: 'right',
    roots: 'right',
    set: wantsBasic,
  },
  {
    name: 'Basic, clients alone have it',
    seen: 'imagePullSecrets',
    clients: 'right',
    set: wantsBasic,
  },
  {
    name: "Basic, the roots' is wrong",
    seen: 'rotated passwords',
    clients: 'right',
    roots: 'wrong',
    set: wantsBasic,
  },
  { name: 'token for anybody', seen: 'public registries', set: wantsToken() },
  {
    name: 'token, everybody has credentials',
    seen: 'private repositories',
    clients: 'right',
    roots: 'right',
    set: wantsToken(tokenForUser),
  },
  {
    name: 'token, clients alone have credentials',
    seen: 'imagePullSecrets',
    clients: 'right',
    set: wantsToken(tokenForUser),
  },
  {
    name: 'token server redirects to itself with a slash',
    seen: 'token servers that moved',
    set: wantsToken((ask) =>
      ask.url.startsWith('/token/')
        ? ask.answer(200, {}, JSON.stringify({ token: TOKEN }))
        : ask.answer(301, { location: ask.url.replace('/token', '/token/') }),
    ),
  },
  {
    name: 'token in `access_token`, `token` is empty',
    seen: 'Azure; encoders of Go',
    set: wantsToken((ask) =>
      ask.answer(200, {}, JSON.stringify({ token: '', access_token: TOKEN, expires_in: 0 })),
    ),
  },
  hidden('challenge at /v2/ alone, else 404', "GitHub's first registry, Artifactory", (ask) =>
    ask.answer(404, {}, '{"errors":[{"code":"NAME_UNKNOWN"}]}'),
  ),
  hidden('challenge at /v2/ alone, else 403', 'Artifactory', (ask) =>
    ask.answer(403, {}, '{"errors":[{"code":"DENIED"}]}'),
  ),
  hidden('challenge at /v2/ alone, else 401 without one', 'proxies that drop headers', (ask) =>
    ask.answer(401),
  ),
  {
    name: 'all requests redirect to a registry with tokens',
    seen: 'lscr.io before ghcr.io (dragonfly#3499)',
    isLed: true,
    set: (to) => {
      // The other registry is the storage's server, with all that this one has.
      to.answerBy('registry', (ask) =>
        ask.answer(307, { location: `http://${to.storage.address}${ask.url}` }),
      );
      const { behaviours } = to.storage;
      to.answerBy('storage', (ask) => {
        if (ask.part === 'token') return ask.answer(200, {}, JSON.stringify({ token: TOKEN }));
        return ask.headers.authorization === `Bearer ${TOKEN}`
          ? false
          : ask.answer(401, bearer(to.storage.address));
      });
      const guard = behaviours.get('');
      behaviours.set('', async (request, response, blob) => {
        if (await guard?.(request, response, blob)) return true;
        if (!/\/manifests\//.test(request.url ?? '')) return false;
        to.registry.behaviours.delete('');
        to.registry.answer(request, response);
        to.answerBy('registry', (ask) =>
          ask.answer(307, { location: `http://${to.storage.address}${ask.url}` }),
        );
        return true;
      });
    },
  },
  {
    name: 'Range is ignored',
    seen: "Harbor's proxy cache on a miss (harbor#23875)",
    set: blobsBy(wholeBlob),
  },
  {
    name: 'Range is ignored until a blob was read once',
    seen: 'caches that fill',
    set: blobsBy((ask) => ask.earlier === 0 && wholeBlob(ask)),
  },
  {
    name: 'Range is ignored, 3 MB/s',
    seen: 'caches that fetch from afar',
    set: blobsBy(async ({ response, bytes }) => {
      response.writeHead(200, { 'content-length': bytes.length });
      for (let at = 0; at < bytes.length && !response.destroyed; at += 60_000) {
        response.write(bytes.subarray(at, at + 60_000));
        await sleep(20);
      }
      response.end();
      return true;
    }),
  },
  {
    name: 'a part of at most 100,000 bytes',
    seen: 'RFC 9110, 15.3.7',
    set: blobsBy((ask) => part(ask, soundRange, 100_000)),
  },
  {
    name: 'parts without Content-Range',
    seen: 'proxies',
    set: blobsBy((ask) => part(ask, () => ({}))),
  },
  {
    name: 'parts of a blob of unknown length (`/*`)',
    seen: 'RFC 9110, 14.4',
    set: blobsBy((ask) =>
      part(ask, (first, last) => ({ 'content-range': `bytes ${first}-${last}/*` })),
    ),
  },
  {
    name: 'parts say another range',
    seen: 'caches that mix up entries',
    set: blobsBy((ask) =>
      part(ask, (first, last, total) => soundRange(first + 1, last + 1, total)),
    ),
  },
  {
    name: 'multipart for one range',
    seen: 'servers that read RFC 9110 literally',
    set: blobsBy((ask) =>
      part(ask, () => ({ 'content-type': 'multipart/byteranges; boundary=x' })),
    ),
  },
  {
    name: 'a layer says Content-Encoding: gzip of what is stored',
    seen: 'mod_mime (moby#17595), buckets',
    set: blobsBy((ask) => {
      ask.response.setHeader('content-encoding', 'x-gzip');
      return false;
    }),
  },
  {
    name: 'blobs say text/html',
    seen: 'static registries',
    set: blobsBy((ask) => {
      ask.response.setHeader('content-type', 'text/html');
      return false;
    }),
  },
  {
    name: 'connections are cut at the same place each time, and no Range',
    seen: 'proxies with a limit, damaged storages',
    set: blobsBy(({ response, bytes }) => {
      response.writeHead(200, { 'content-length': bytes.length });
      if (bytes.length < 3_000_000) response.end(bytes);
      else response.write(bytes.subarray(0, 1000), () => response.destroy());
      return true;
    }),
  },
  {
    name: 'GET of one layer is 202',
    seen: 'storages that bring archives back first',
    set: blobsBy((ask) => ask.bytes.length === 3_000_000 && ask.answer(202)),
  },
  {
    name: 'ranges are refused with 416',
    seen: 'compressing proxies',
    set: blobsBy(({ headers, answer }) => headers.range !== undefined && answer(416)),
  },
  {
    name: 'blobs come chunked, without a length, and no Range',
    seen: 'compressing proxies',
    set: blobsBy(({ response, bytes }) => {
      response.writeHead(200);
      response.write(bytes.subarray(0, bytes.length >> 1));
      response.end(bytes.subarray(bytes.length >> 1));
      return true;
    }),
  },
  getIs(404, 'collected garbage'),
  getIs(410, 'deleted for good'),
  getIs(403, 'quarantine by a scanner'),
  getIs(401, 'withdrawn rights'),
  getIs(400, 'proxies'),
  getIs(451, 'laws'),
  getIs(500, 'broken storages'),
  getIs(503, 'overload that lasts'),
  {
    name: 'every second request is 503',
    seen: 'overload',
    set: (to) => {
      let count = 0;
      to.answerBy('registry', (ask) => (count++ % 2 === 0 ? ask.answer(503) : false));
    },
  },
  {
    name: '429 with Retry-After: 1, then well',
    seen: 'limits of rate',
    set: (to) => {
      let count = 0;
      to.answerBy('registry', (ask) =>
        count++ === 2 ? ask.answer(429, { 'retry-after': '1' }) : false,
      );
    },
  },
  {
    name: '429 for all blobs, Retry-After: 3600',
    seen: 'quotas that are spent',
    set: blobsBy((ask) => ask.answer(429, { 'retry-after': '3600' })),
  },
  silentFor(5),
  silentFor(12),
  {
    name: 'connections are cut in the middle of a blob, each second time',
    seen: 'load balancers',
    set: blobsBy(({ earlier, response, bytes, headers }) => {
      if (earlier % 2 === 1 || (headers.range !== undefined && earlier > 6)) return false;
      const range = parseByteRange(headers.range, bytes.length);
      const { offset, length } =
        typeof range === 'string' ? { offset: 0, length: bytes.length } : range;
      response.writeHead(typeof range === 'string' ? 200 : 206, {
        'content-length': length,
        ...(typeof range !== 'string' && soundRange(offset, offset + length - 1, bytes.length)),
      });
      response.write(bytes.subarray(offset, offset + (length >> 1)), () => response.destroy());
      return true;
    }),
  },
  {
    name: 'one layer has wrong bytes',
    seen: 'damaged storages',
    set: (to) => {
      const damaged = Buffer.from(to.blobs[2]?.bytes ?? []);
      damaged[500_000] = (damaged[500_000] ?? 0) ^ 1;
      blobsBy(({ blob, response }) => {
        if (blob !== to.blobs[2]) return false;
        answerSoundly({ headers: {}, method: 'GET' } as never, response, damaged);
        return true;
      })(to);
    },
  },
  {
    name: 'the config has wrong bytes',
    seen: 'damaged storages',
    set: (to) => {
      const damaged = Buffer.from(to.blobs[0]?.bytes ?? []);
      damaged[50] = (damaged[50] ?? 0) ^ 1;
      blobsBy((ask) =>
        ask.blob === to.blobs[0]
          ? part({ ...ask, bytes: damaged }, soundRange) || wholeBlob({ ...ask, bytes: damaged })
          : false,
      )(to);
    },
  },
  {
    name: 'a page instead of a manifest',
    seen: 'captive portals, firewalls',
    set: manifestsBy((ask) =>
      ask.answer(200, { 'content-type': 'text/html' }, '<html>blocked</html>'),
    ),
  },
  {
    name: 'an empty manifest',
    seen: 'broken proxies',
    set: manifestsBy((ask) =>
      ask.answer(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' }),
    ),
  },
  {
    name: 'HEAD of a manifest is 405',
    seen: 'simple servers',
    set: manifestsBy((ask) => ask.method === 'HEAD' && ask.answer(405)),
  },
  {
    name: 'manifests without Docker-Content-Digest',
    seen: 'static registries',
    set: manifestsBy((ask) => {
      const set = ask.response.writeHead.bind(ask.response);
      ask.response.writeHead = ((status: number, headers: Record<string, string>) =>
        set(
          status,
          Object.fromEntries(
            Object.entries(headers).filter(([name]) => name !== 'docker-content-digest'),
          ),
        )) as never;
      return false;
    }),
  },
  {
    name: 'manifest with `"annotations": null` and empty fields',
    seen: 'encoders of Go',
    set: (to) => {
      to.answerBy('registry', () => false);
      to.setManifest({ annotations: null, subject: null, artifactType: '' });
    },
  },
  {
    name: 'manifest with `"layers": null`',
    seen: 'encoders of Go',
    set: (to) => {
      to.answerBy('registry', () => false);
      to.setManifest({ layers: null });
    },
  },
  {
    name: 'a foreign layer that the registry does not have',
    seen: 'Windows images',
    set: (to) => {
      to.answerBy('registry', () => false);
      const foreign = {
        mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
        digest: digestOf(Buffer.from(to.host)),
        size: 1234,
        urls: ['http://127.0.0.1:9/none'],
      };
      to.setManifest({
        layers: [
          ...to.blobs.slice(1).map(({ digest, bytes }) => ({
            mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
            digest,
            size: bytes.length,
          })),
          foreign,
        ],
      });
    },
  },
];
