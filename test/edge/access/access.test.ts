import { Readable } from 'node:stream';
import { beforeEach, describe, expect, it } from 'vitest';
import { AccessCheck } from '../../../src/edge/access/access.ts';
import type { BlobAddress } from '../../../src/edge/access/contract.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { RegistryError } from '../../../src/registry/errors.ts';
import type { UrlAnswer, UrlRequest } from '../../../src/registry/url-client.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { orAbort } from '../../../src/util/or-abort.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { Failure } from '../../kit/twins.ts';

const ACCEPT_MS = 300_000;
const STALE_MS = 3_600_000;
const blob = (n: number): Digest => `sha256:${String(n).padStart(64, '0')}` as Digest;
const A = blob(1);
const B = blob(2);
const { signal } = new AbortController();

/** A registry in a few fields: who may read which repository, and what is in it. */
class World {
  readonly clock = new ManualClock();
  readonly asked: UrlRequest[] = [];
  /** By repository: the only Authorization that is accepted ('' for none). */
  readonly rights = new Map<string, string>();
  readonly content = new Map<string, readonly Digest[]>();
  readonly signed = new Set<string>();
  isPublic = false;
  isAway = false;
  readonly sizes = new Map<Digest, number>();
  isConfigured = true;
  isSilent = false;
  theirs = Buffer.alloc(1000, 1);
  isInTree = true;

  readonly access = new AccessCheck(
    {
      stat: async () => {
        if (!this.isInTree) throw new Failure('not-found');
        return { sizeBytes: 1000, isPublic: this.isPublic };
      },
      urls: {
        open: async (request, limit) => {
          if (this.isSilent) await orAbort(new Promise(() => {}), limit);
          return this.#answer(request);
        },
        isConfigured: () => this.isConfigured,
      },
      onSize: (digest, sizeBytes) => void this.sizes.set(digest, sizeBytes),
      content: {
        open: async (digest) => {
          if (!this.isInTree) throw new Failure('not-found');
          return { digest, sizeBytes: 1000 };
        },
        read: async (_, __, length) => Buffer.alloc(length, 1),
      },
      clock: this.clock,
      random: { float: () => 0.5, below: (n) => n - 1, bytes: (n) => new Uint8Array(n) },
      hash: new NodeHash(),
      metrics: silentMetrics,
    },
    { acceptMs: ACCEPT_MS, staleMs: STALE_MS },
  );

  #answer(request: UrlRequest): UrlAnswer {
    this.asked.push(request);
    if (this.isAway) throw new RegistryError('away', { code: 'unavailable' });
    const { status, body } = this.#verdict(request);
    const headers = {
      'content-length': String(request.method === 'HEAD' ? 1000 : body.length),
      ...(status === 206 && { 'content-range': `bytes 0-0/1000` }),
      ...(status === 401 && { 'www-authenticate': 'Basic realm="r"' }),
    };
    return { status, headers, body: Readable.from([body]) };
  }

  #verdict({ url, headers, method }: UrlRequest): { status: number; body: Buffer } {
    const range = /bytes=(\d+)-(\d+)/.exec(headers['range'] ?? '');
    const part = this.theirs.subarray(Number(range?.[1] ?? 0), Number(range?.[2] ?? 0) + 1);
    if (this.signed.has(url)) return { status: method === 'GET' ? 206 : 403, body: part };
    const [, repository = '', digest = ''] = /\/v2\/(.+)\/blobs\/(.+)$/.exec(url) ?? [];
    if (repository === '') return { status: 403, body: Buffer.alloc(0) };
    const right = this.rights.get(repository);
    if (right !== '' && headers['authorization'] !== right) {
      return { status: 401, body: Buffer.alloc(0) };
    }
    const has = this.content.get(repository)?.includes(digest as Digest) === true;
    return { status: has ? (range ? 206 : 200) : 404, body: range ? part : Buffer.alloc(0) };
  }
}

let world: World;
beforeEach(() => {
  world = new World();
  world.rights.set('secret', 'Bearer good');
  world.content.set('secret', [A]);
  world.rights.set('open', '');
  world.content.set('open', [B]);
});

function at(repository: string, digest: Digest): BlobAddress {
  const url = `https://r.example/v2/${repository}/blobs/${digest}`;
  return { scheme: 'https', registry: 'r.example', repository, url };
}

function check(address: BlobAddress, digest: Digest, authorization?: string): Promise<void> {
  const options = authorization === undefined ? { signal } : { signal, authorization };
  return world.access.check(address, digest, options);
}

function advance(ms: number): void {
  world.clock.advance(ms);
}

describe('AccessCheck.check()', () => {
  it('asks with exactly the credentials of the request, once per repository and blob', async () => {
    await check(at('secret', A), A, 'Bearer good');
    await check(at('secret', A), A, 'Bearer good');
    expect(world.asked.map(({ method, headers }) => [method, headers])).toEqual([
      ['HEAD', { authorization: 'Bearer good' }],
    ]);
    expect(world.access.accepts(at('secret', A), A, 'Bearer good')).toBe(true);
    expect(world.access.accepts(at('secret', A), A, 'Bearer other')).toBe(false);
    expect(world.access.accepts(at('secret', A), A, undefined)).toBe(false);
    expect(world.sizes.get(A)).toBe(1000);
  });

  it('shares one request among all that ask at the same time', async () => {
    await Promise.all(Array.from({ length: 5 }, () => check(at('open', B), B)));
    expect(world.asked).toHaveLength(1);
  });

  it('refuses as the registry does, with its challenge', async () => {
    await check(at('secret', A), A, 'Bearer good');
    for (const authorization of [undefined, 'Bearer bad']) {
      await expect(check(at('secret', A), A, authorization)).rejects.toMatchObject({
        detail: { code: 'unauthorized', challenges: ['Basic realm="r"'] },
      });
    }
  });

  it('refuses a private blob to a client that names another repository it may read', async () => {
    await check(at('secret', A), A, 'Bearer good');
    await check(at('open', B), B);
    await expect(check(at('open', A), A)).rejects.toMatchObject({ code: 'not-found' });
  });

  it('asks no registry about a blob that the roots call public, nor the roots again while the answer is fresh', async () => {
    world.isPublic = true;
    await check(at('open', B), B);
    expect(world.asked).toEqual([]);
    expect(world.access.accepts(at('any', B), B, 'Bearer x')).toBe(true);
  });

  it('asks again when a verdict has expired', async () => {
    await check(at('secret', A), A, 'Bearer good');
    advance(ACCEPT_MS);
    expect(world.access.accepts(at('secret', A), A, 'Bearer good')).toBe(false);
    world.rights.set('secret', 'Bearer new');
    await expect(check(at('secret', A), A, 'Bearer good')).rejects.toMatchObject({
      code: 'unauthorized',
    });
  });

  it('uses an expired verdict for up to staleMs while the registry is away', async () => {
    await check(at('secret', A), A, 'Bearer good');
    world.isAway = true;
    advance(ACCEPT_MS + STALE_MS);
    await check(at('secret', A), A, 'Bearer good');
    advance(1);
    await expect(check(at('secret', A), A, 'Bearer good')).rejects.toMatchObject({
      code: 'unchecked',
    });
    await expect(check(at('secret', A), A, 'Bearer bad')).rejects.toMatchObject({
      code: 'unchecked',
    });
  });

  it('serves a public blob while neither a root nor the registry answers', async () => {
    world.isPublic = true;
    await check(at('open', B), B);
    world.isInTree = false;
    world.isAway = true;
    advance(100 * STALE_MS);
    await check(at('open', B), B);
    world.isAway = false;
    world.rights.set('open', 'Bearer now-private');
    await expect(check(at('open', B), B)).rejects.toMatchObject({ code: 'unauthorized' });
  });

  it('accepts a signed URL as the right to its blob, and checks it with GET', async () => {
    const url = `https://s.example/sha256/00/${A.slice(7)}/data?sig=1`;
    const address: BlobAddress = { scheme: 'https', registry: 's.example', repository: '', url };
    await expect(check(address, A)).rejects.toMatchObject({ code: 'denied' });
    world.signed.add(url);
    await check(address, A);
    expect(world.asked.every(({ method, headers }) => method === 'GET' && 'range' in headers)).toBe(
      true,
    );
    expect(world.access.accepts({ ...address, url: `${url}2` }, A, undefined)).toBe(false);
  });

  it('checks with GET a registry URL that redirects to a signed URL for GET alone', async () => {
    world.signed.add(at('secret', A).url);
    await check(at('secret', A), A);
    expect(world.asked.map(({ method }) => method)).toEqual(['HEAD', 'GET']);
  });

  it('believes a server that is not configured only when it knows the bytes', async () => {
    world.isConfigured = false;
    await check(at('open', B), B);
    world.theirs = Buffer.alloc(1000, 2);
    world.content.set('open', [A, B]);
    await expect(check(at('open', A), A)).rejects.toMatchObject({ code: 'denied' });
    expect(world.sizes.has(B)).toBe(false);
  });

  it('says when only the named server can serve the blob', async () => {
    world.isConfigured = false;
    world.isInTree = false;
    await expect(check(at('open', B), B)).rejects.toMatchObject({ code: 'not-shared' });
  });

  it('is unchecked when the registry is silent', async () => {
    await check(at('secret', A), A, 'Bearer good');
    world.isSilent = true;
    const first = check(at('open', B), B);
    world.clock.advance(15_000);
    await expect(first).rejects.toMatchObject({ code: 'unchecked' });
    // One that has an old verdict waits less.
    advance(ACCEPT_MS);
    const again = check(at('secret', A), A, 'Bearer good');
    world.clock.advance(3_000);
    await again;
  });
});
