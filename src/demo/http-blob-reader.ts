import { Agent, request } from 'node:http';
import { buffer } from 'node:stream/consumers';
import type { BlobOrigin, BlobRef } from '../image/block.ts';
import type { BlobReader, ReadOptions } from '../transfer/contracts/blob-reader.ts';
import { CodedError } from '../util/errors.ts';

/** Most connections to the agent; further reads wait. */
const CONNECTIONS_MAX = 16;

const READ_TIMEOUT_MS = 30_000;

/** A read from the local endpoint failed. */
class LocalReadError extends CodedError<{ readonly code: 'local-read' }> {}

/**
 * Reads blobs through the local endpoint of an agent in another process, as overlaybd does. Rejects
 * with LocalReadError.
 */
export class HttpBlobReader implements BlobReader {
  readonly #base: string;
  readonly #origin: BlobOrigin;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS_MAX });

  /**
   * `base`: URL of the agent's local endpoint with the prefix, such as
   * `http://127.0.0.1:19145/dadip2p`.
   */
  constructor(init: { base: string; origin: BlobOrigin }) {
    this.#base = init.base;
    this.#origin = init.origin;
  }

  read(blob: BlobRef, offset: number, length: number, options: ReadOptions): Promise<Uint8Array> {
    const { registry, repository } = this.#origin;
    const url = `${this.#base}/http://${registry}/v2/${repository}/blobs/${blob.digest}`;
    const timeoutMs = options.timeoutMs ?? READ_TIMEOUT_MS;
    const signals = [AbortSignal.timeout(timeoutMs)];
    if (options.signal !== undefined) signals.push(options.signal);
    return new Promise((resolve, reject) => {
      const fail = (why: string, cause?: unknown): void =>
        reject(
          new LocalReadError(
            `cannot read ${length} bytes at ${offset} of ${blob.digest} ` +
              `from ${this.#base}: ${why}`,
            { code: 'local-read' },
            { cause },
          ),
        );
      const headers = { range: `bytes=${offset}-${offset + length - 1}` };
      const signal = AbortSignal.any(signals);
      request(url, { agent: this.#agent, headers, signal }, (response) => {
        buffer(response).then(
          (body) => {
            if (response.statusCode === 206 && body.length === length) resolve(body);
            else fail(`the answer was ${response.statusCode} with ${body.length} bytes`);
          },
          (error: unknown) => fail('the answer broke off', error),
        );
      })
        .on('error', (error) => fail(error.message, error))
        .end();
    });
  }

  readCached(): undefined {
    return undefined;
  }

  close(): void {
    this.#agent.destroy();
  }
}
