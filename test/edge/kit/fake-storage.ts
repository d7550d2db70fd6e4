import { Readable } from 'node:stream';
import type { UrlAnswer, UrlHead, UrlRequest, UrlRun } from '../../../src/registry/url-client.ts';

/** An object of a fake storage. */
export interface FakeObject {
  bytes: Uint8Array;
  etag?: string | undefined;
  contentType?: string;
}

/**
 * A storage in memory, as a `UrlClient` reaches it: it knows objects by their URL without the
 * query, and answers Range and If-Match. A request that `refuses` names gets 403.
 */
export class FakeStorage {
  readonly objects = new Map<string, FakeObject>();
  readonly asked: UrlRequest[] = [];
  refuses: (request: UrlRequest) => boolean = () => false;
  /** Answers in place of the storage. */
  instead: ((request: UrlRequest) => Partial<UrlAnswer> | undefined) | undefined;
  isAway = false;

  open = async (request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> => {
    signal.throwIfAborted();
    this.asked.push(request);
    if (this.isAway) throw new Error('no route to the storage');
    return { status: 500, headers: {}, body: Readable.from([]), ...this.#answer(request) };
  };

  fill = async (
    request: UrlRequest,
    { offset, target, check }: UrlRun,
    signal: AbortSignal,
  ): Promise<UrlHead | undefined> => {
    const range = `bytes=${offset + target.filled}-${offset + target.length - 1}`;
    const answer = await this.open({ ...request, headers: { range, ...request.headers } }, signal);
    if (answer.status !== 200 && answer.status !== 206) return answer;
    check?.(answer);
    for await (const piece of answer.body) target.write(target.filled, piece as Uint8Array);
    if (!target.isFull) throw new Error(`${target.filled} bytes came, not ${target.length}`);
    return undefined;
  };

  #answer(request: UrlRequest): Partial<UrlAnswer> {
    const other = this.instead?.(request);
    if (other !== undefined) return other;
    if (this.refuses(request)) return { status: 403 };
    const object = this.objects.get(request.url.split('?')[0] ?? '');
    if (object === undefined) return { status: 404 };
    const { bytes, etag, contentType = 'application/octet-stream' } = object;
    const ifMatch = request.headers['if-match'];
    if (ifMatch !== undefined && ifMatch !== etag) return { status: 412 };
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers['range'] ?? '') ?? [];
    const end = Math.min(Number(last), bytes.length - 1);
    const headers = {
      'content-range': `bytes ${first}-${end}/${bytes.length}`,
      'content-type': contentType,
      ...(etag !== undefined && { etag }),
    };
    const body = Readable.from([bytes.subarray(Number(first), end + 1)]);
    return { status: 206, headers, body };
  }
}

/** The query of an S3 signature that this signer made. */
export function signature(signer: string): string {
  const hex = Buffer.from(signer).toString('hex').padEnd(64, '0').slice(0, 64);
  const signed = 'X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260101T000000Z';
  return `?${signed}&X-Amz-Credential=${signer}&X-Amz-Signature=${hex}`;
}
