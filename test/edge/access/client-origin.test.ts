import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { ClientOrigin } from '../../../src/edge/access/client-origin.ts';
import type { BlobAddress } from '../../../src/edge/access/contract.ts';
import type { UrlRequest } from '../../../src/registry/url-client.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { digestOf } from '../../kit/registry-content.ts';

const BYTES = sampleBytes(1000, 1);
const ORIGIN = { registry: 'registry.test', repository: 'app' };
const BLOB = { digest: digestOf(BYTES), sizeBytes: BYTES.length, origin: ORIGIN };
const ADDRESS: BlobAddress = { ...ORIGIN, scheme: 'https', url: 'https://registry.test/signed' };
const { signal } = new AbortController();

/** A `ClientOrigin` between the host's own registries and the URLs of clients. */
class World {
  readonly clock = new ManualClock();
  /** How often the host's own credentials were tried. */
  ownReads = 0;
  ownFails: OriginError | undefined;
  ownBytes = BYTES;
  readonly urls: UrlRequest[] = [];
  status = 206;
  readonly origin: ClientOrigin;

  constructor(init: { readonly isRoot: boolean } = { isRoot: false }) {
    this.origin = new ClientOrigin(
      {
        inner: {
          readInto: async (_, offset, target) => {
            this.ownReads++;
            if (this.ownFails !== undefined) throw this.ownFails;
            target.set(this.ownBytes.subarray(offset, offset + target.length));
          },
          resolve: () => Promise.reject(new Error('not asked')),
          isConfigured: () => true,
          stat: async () => {
            if (this.ownFails !== undefined) throw this.ownFails;
            return { sizeBytes: BYTES.length, isPublic: false };
          },
        },
        urls: {
          isConfigured: (registry) => registry === ORIGIN.registry,
          open: async (request) => {
            this.urls.push(request);
            return { status: this.status, headers: {}, body: Readable.from([]) };
          },
          fill: async (_, { offset, target }) => {
            target.set(BYTES.subarray(offset, offset + target.length));
          },
        },
        hash: new NodeHash(),
        clock: this.clock,
        metrics: silentMetrics,
      },
      init,
    );
  }

  async read(length = 100): Promise<Uint8Array> {
    const target = new Uint8Array(length);
    await this.origin.readInto(BLOB, 0, target, signal);
    return target;
  }
}

const refused = (): OriginError => new OriginError('no', { code: 'refused' });

describe('ClientOrigin', () => {
  it("ClientOrigin.readInto() uses the host's own credentials while they work", async () => {
    const world = new World();
    world.origin.note(BLOB.digest, ADDRESS, 'Bearer client');
    expect(await world.read()).toEqual(BYTES.slice(0, 100));
    expect([world.ownReads, world.urls]).toEqual([1, []]);
  });

  it("ClientOrigin.readInto() falls back to the client's URL and token for a minute", async () => {
    const world = new World();
    world.ownFails = refused();
    await expect(world.read()).rejects.toMatchObject({ code: 'refused' });
    world.origin.note(BLOB.digest, ADDRESS, 'Bearer client');
    for (let i = 0; i < 2; i++) expect(await world.read()).toEqual(BYTES.slice(0, 100));
    expect(world.ownReads).toBe(2);
    const headers = { range: 'bytes=0-99', authorization: 'Bearer client' };
    expect(world.urls).toEqual(Array(2).fill({ method: 'GET', url: ADDRESS.url, headers }));
    world.clock.advance(60_000);
    await world.read();
    expect(world.ownReads).toBe(3);
  });

  it('ClientOrigin.readInto() forgets a URL that is refused, and tells its watchers', async () => {
    const world = new World();
    world.ownFails = refused();
    world.status = 403;
    const told: string[] = [];
    world.origin.note(BLOB.digest, ADDRESS, undefined)?.watch(({ code }) => void told.push(code));
    await expect(world.read()).rejects.toMatchObject({ code: 'refused' });
    expect(told).toEqual(['denied']);
    await expect(world.read()).rejects.toMatchObject({ code: 'refused' });
    expect(world.urls).toHaveLength(1);
  });

  it('ClientOrigin.readInto() checks a blob of one block against its digest', async () => {
    const world = new World();
    expect(await world.read(BYTES.length)).toEqual(BYTES);
    world.ownBytes = sampleBytes(1000, 2);
    await expect(world.read(BYTES.length)).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('ClientOrigin.note() takes no URL of a server that is not configured', () => {
    const { origin } = new World();
    const stranger = { ...ADDRESS, registry: 'stranger.test' };
    expect(origin.note(BLOB.digest, stranger, undefined)).toBeUndefined();
  });

  it('ClientOrigin.stat() answers with a learned size on a root alone', async () => {
    for (const isRoot of [true, false]) {
      const world = new World({ isRoot });
      world.ownFails = new OriginError('gone', { code: 'not-found' });
      world.origin.learnSize(BLOB.digest, 7);
      const stat = world.origin.stat(BLOB.digest, ORIGIN, signal);
      if (isRoot) expect(await stat).toEqual({ sizeBytes: 7, isPublic: false });
      else await expect(stat).rejects.toMatchObject({ code: 'not-found' });
    }
  });
});
