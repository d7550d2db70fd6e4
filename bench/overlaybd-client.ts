import { Agent, request as httpRequest } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import { BLOCK_SIZE_BYTES } from '../src/image/block.ts';
import { defined } from '../src/util/assert.ts';
import type { FakeBlob, FakeRegistry } from '../test/kit/fake-registry.ts';

/** Reads that a container waits for at a time. */
const READS_RUNNING = 4;

/** Reads of overlaybd that open an image of three layers. */
const OPENING_READS = 58;

/** What overlaybd reads: headers and indexes of a hundred bytes, data of up to 64 KiB. */
const READ_BYTES_MIN = 105;
const READ_BYTES_MAX = 64 * 1024;

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

/** Layers, and what a container reads of them. */
export interface Image {
  readonly layers: readonly FakeBlob[];
  readonly reads: readonly Read[];
}

/**
 * Layers that nobody has seen yet, and the reads of a container: those that open the image, and
 * `randomReads` more; the same ones each time.
 */
export function makeImage(
  origin: FakeRegistry,
  layersBytes: readonly number[],
  randomReads: number,
): Image {
  const layers = layersBytes.map((sizeBytes) => origin.add(sizeBytes));
  let state = 1;
  const draw = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
  const reads = Array.from({ length: OPENING_READS + randomReads }, (_, i): Read => {
    const layer = i < OPENING_READS ? i % layers.length : draw(layers.length);
    const sizeBytes = layers[layer]?.bytes.length ?? 0;
    const length = READ_BYTES_MIN + draw(READ_BYTES_MAX - READ_BYTES_MIN + 1);
    return { layer, length, offset: draw(sizeBytes - length) };
  });
  return { layers, reads };
}

/** Bytes of the blocks that the reads touch. */
export function distinctBytes({ layers, reads }: Image): number {
  const blocks = new Map<string, number>();
  for (const { layer, offset, length } of reads) {
    const last = Math.floor((offset + length - 1) / BLOCK_SIZE_BYTES);
    for (let block = Math.floor(offset / BLOCK_SIZE_BYTES); block <= last; block++) {
      const rest = (layers[layer]?.bytes.length ?? 0) - block * BLOCK_SIZE_BYTES;
      blocks.set(`${layer}/${block}`, Math.min(BLOCK_SIZE_BYTES, rest));
    }
  }
  return [...blocks.values()].reduce((sum, length) => sum + length, 0);
}

/** The reads of a background download of one blob. */
export function downloadReads(sizeBytes: number): Read[] {
  const reads: Read[] = [];
  for (let offset = 0; offset < sizeBytes; offset += DOWNLOAD_BYTES) {
    reads.push({ layer: 0, offset, length: Math.min(DOWNLOAD_BYTES, sizeBytes - offset) });
  }
  return reads;
}

/** Reads everything, `running` reads at a time, and checks every byte. */
export async function replay(
  base: string,
  urls: readonly string[],
  image: Image & { readonly headers?: Readonly<Record<string, string>> },
  running = READS_RUNNING,
): Promise<void> {
  const isTls = `${base}${urls[0]}`.startsWith('https:');
  const agent = new (isTls ? TlsAgent : Agent)({ keepAlive: true, maxSockets: running });
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let read = image.reads[next++]; read !== undefined; read = image.reads[next++]) {
      const { bytes } = defined(image.layers[read.layer], 'a layer');
      const part = { ...read, bytes, ...(image.headers && { headers: image.headers }) };
      await fetchPatiently(agent, `${base}${urls[read.layer]}`, part);
    }
  };
  await Promise.all(Array.from({ length: running }, worker));
  agent.destroy();
}

/** A part of a blob, and the blob to compare it with. */
interface Part {
  readonly bytes: Buffer;
  readonly offset: number;
  readonly length: number;
  /** All of the blob is asked for, without a range. */
  readonly whole?: boolean;
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
  const { bytes, offset, length, whole = false } = part;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const end = offset + length;
  const range = `bytes=${offset}-${end - 1}`;
  const headers = { ...part.headers, ...(!whole && { range }) };
  const send = url.startsWith('https:') ? tlsRequest : httpRequest;
  send(url, { agent, headers }, (response) => {
    const answered = response.statusCode === (whole ? 200 : 206);
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
