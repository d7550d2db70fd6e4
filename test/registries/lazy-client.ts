import { defined } from '../../src/util/assert.ts';
import type { FakeBlob } from '../kit/fake-registry.ts';
import { REPOSITORY, USER, type StandIn } from './stand-in.ts';

/** What a client may wait for an answer: overlaybd waits for 30 s. */
const PATIENCE_MS = 30_000;
const DOWNLOAD_BYTES = 256 * 1024;
/** Reads of a layer before the download: where, of its size, and how many bytes. */
const OPENING_READS = [
  [0, 512],
  [0.999, 105],
  [0.37, 65_536],
  [0.74, 9_000],
] as const;

/** Where a blob is read, found as overlaybd finds it: past the agent. */
interface Place {
  readonly url: string;
  readonly authorization: string | undefined;
}

/**
 * Reads all layers as overlaybd does: some small ranges, then all of it in pieces of 256 KiB;
 * through the agent whose endpoint `base` is, or straight (''). Rejects with what went wrong.
 */
export async function readLazily(
  standIn: StandIn,
  { base, hasCredentials }: { readonly base: string; readonly hasCredentials: boolean },
): Promise<void> {
  for (const blob of standIn.blobs) {
    const place = await find(
      `http://${standIn.host}/v2/${REPOSITORY}/blobs/${blob.digest}`,
      hasCredentials,
    );
    const size = blob.bytes.length;
    for (const [at, length] of OPENING_READS) {
      const offset = Math.floor(at * size);
      await readRange(base, place, blob, offset, Math.min(size, offset + length));
    }
    for (let offset = 0; offset < size; offset += DOWNLOAD_BYTES) {
      await readRange(base, place, blob, offset, Math.min(size, offset + DOWNLOAD_BYTES));
    }
  }
}

async function readRange(
  base: string,
  place: Place,
  blob: FakeBlob,
  offset: number,
  end: number,
): Promise<void> {
  const { url, authorization } = place;
  for (let tries = 0; ; tries++) {
    try {
      const response = await fetch(`${base}${url}`, {
        headers: { range: `bytes=${offset}-${end - 1}`, ...(authorization && { authorization }) },
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      const body = Buffer.from(await response.arrayBuffer());
      if (response.status !== 206) throw new Error(`${response.status}`);
      const expected = `bytes ${offset}-${end - 1}/${blob.bytes.length}`;
      const said = response.headers.get('content-range');
      if (said !== expected) throw new Error(`206 of ${said}`);
      if (!body.equals(blob.bytes.subarray(offset, end))) throw new Error('wrong bytes');
      return;
    } catch (error) {
      if (tries === 3 || !isTransient(error)) throw error;
    }
  }
}

function isTransient(error: unknown): boolean {
  const text = error instanceof Error ? error.message : '';
  return /^(5\d\d|429)$/.test(text) || /fetch failed|terminated/.test(text);
}

/** Meets the challenge of the registry, and follows its redirection. */
async function find(url: string, hasCredentials: boolean): Promise<Place> {
  const ask = (authorization?: string): Promise<Response> =>
    fetch(url, {
      redirect: 'manual',
      headers: { range: 'bytes=0-0', ...(authorization && { authorization }) },
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  let authorization: string | undefined;
  let response = await ask();
  if (response.status === 401) {
    authorization = await authorize(response.headers.get('www-authenticate') ?? '', hasCredentials);
    if (authorization !== undefined) response = await ask(authorization);
  }
  const location = response.headers.get('location');
  await response.body?.cancel();
  if (response.status >= 300 && response.status < 400 && location !== null) {
    const next = new URL(location, url).href;
    return next.includes('/v2/')
      ? find(next, hasCredentials)
      : { url: next, authorization: undefined };
  }
  if (response.status >= 400) throw new Error(`${response.status}`);
  return { url, authorization };
}

async function authorize(challenge: string, hasCredentials: boolean): Promise<string | undefined> {
  const basic = `Basic ${Buffer.from(`${USER.username}:${USER.password}`).toString('base64')}`;
  if (challenge.startsWith('Basic')) return hasCredentials ? basic : undefined;
  const field = (name: string): string | undefined =>
    new RegExp(`${name}="([^"]*)"`).exec(challenge)?.[1];
  const realm = field('realm');
  if (!challenge.startsWith('Bearer') || realm === undefined) return undefined;
  const query = `service=${field('service')}&scope=${field('scope')}`;
  const response = await fetch(`${realm}?${query}`, {
    headers: hasCredentials ? { authorization: basic } : {},
  });
  const { token, access_token } = (await response.json()) as Record<string, string>;
  return `Bearer ${defined(token || access_token, 'a token')}`;
}
