import { Agent, request as httpRequest } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import { defined } from '../src/util/assert.ts';
import type { FakeBlob } from '../test/kit/fake-registry.ts';

/** Reads that a container waits for at a time. */
const READS_RUNNING = 4;

/**
 * Of one read, as overlaybd does it: a machine that is too busy for all these agents takes some.
 */
const TRIES_MAX = 4;

/** What overlaybd asks for in its background downloads. */
const DOWNLOAD_BYTES = 256 * 1024;

/** A read of a layer, named by its place in the image. */
export interface Read {
  readonly layer: number;
  readonly offset: number;
  readonly length: number;
}

/** The reads of a background download of one blob. */
export function downloadReads(sizeBytes: number): Read[] {
  const reads: Read[] = [];
  for (let offset = 0; offset < sizeBytes; offset += DOWNLOAD_BYTES) {
    reads.push({ layer: 0, offset, length: Math.min(DOWNLOAD_BYTES, sizeBytes - offset) });
  }
  return reads;
}

/** Reads everything, and checks every byte. */
export async function replay(
  base: string,
  urls: readonly string[],
  image: Readonly<{
    layers: readonly FakeBlob[];
    reads: readonly Read[];
    headers?: Readonly<Record<string, string>>;
  }>,
): Promise<void> {
  const isTls = `${base}${urls[0]}`.startsWith('https:');
  const agent = new (isTls ? TlsAgent : Agent)({ keepAlive: true, maxSockets: READS_RUNNING });
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let read = image.reads[next++]; read !== undefined; read = image.reads[next++]) {
      const { bytes } = defined(image.layers[read.layer], 'a layer');
      const part = { ...read, bytes, ...(image.headers && { headers: image.headers }) };
      await fetchPatiently(agent, `${base}${urls[read.layer]}`, part);
    }
  };
  await Promise.all(Array.from({ length: READS_RUNNING }, worker));
  agent.destroy();
}

/** A part of a blob, and the blob to compare it with. */
interface Part {
  readonly bytes: Buffer;
  readonly offset: number;
  readonly length: number;
  /** Beside the range. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** overlaybd tries three times more. */
async function fetchPatiently(agent: Agent, url: string, part: Part): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      return await fetchPart(agent, url, part);
    } catch (error) {
      if (tries === TRIES_MAX) throw error;
    }
  }
}

/** Compares while the bytes come: what this process does is missing to the agents. */
export function fetchPart(agent: Agent, url: string, part: Part): Promise<void> {
  const { bytes, offset, length } = part;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const end = offset + length;
  const headers = { ...part.headers, range: `bytes=${offset}-${end - 1}` };
  const send = url.startsWith('https:') ? tlsRequest : httpRequest;
  send(url, { agent, headers }, (response) => {
    const answered = response.statusCode === 206;
    let at = offset;
    response.on('data', (piece: Buffer) => {
      const next = at + piece.length;
      if (answered && (next > end || bytes.compare(piece, 0, piece.length, at, next) !== 0)) {
        reject(new Error(`${url} gave other bytes than the origin has`));
        response.destroy();
      }
      at = next;
    });
    response.on('error', reject);
    response.on('end', () => {
      if (answered && at === end) resolve();
      else reject(new Error(`${url} answered ${response.statusCode} with ${at - offset} bytes`));
    });
  })
    .on('error', reject)
    .end();
  return promise;
}
