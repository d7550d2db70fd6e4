import { BLOB_SIZE_BYTES_MAX } from '../../image/block.ts';
import { MANIFEST_ACCEPT } from '../../image/manifest.ts';
import { parseContentRange } from '../../registry/http/content-range.ts';
import { RANGE_NOT_SATISFIABLE } from '../../registry/http/blob-range.ts';
import { beginsPage, isHtml } from '../../registry/http/page.ts';
import type { UrlAnswer, UrlHead, UrlRequest } from '../../registry/url-client.ts';
import { AccessError, refusalOf } from './access-error.ts';

/** A strong validator (RFC 9110, 8.8.3) of printable characters that a message has room for. */
const STRONG_ETAG = /^"[\x21\x23-\x7e]{1,250}"$/;

interface Components {
  readonly urls: { open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> };
}

/** Where and with what right. */
export interface ProbedUrl {
  readonly url: string;
  readonly authorization: string | undefined;
}

/**
 * Asks an origin for one byte: the answer to this GET, after its redirects, is the verdict on a
 * right, and tells the size.
 */
export class UrlProbe {
  readonly #urls: Components['urls'];

  constructor(components: Components) {
    this.#urls = components.urls;
  }

  /**
   * Size of what stands at the URL, in bytes. HEAD is not used: many registries and signed URLs
   * refuse it. `isLent`: the URL is another host's, and no redirect is followed. Rejects with
   * AccessError when the origin says no, and with RegistryError when it says nothing.
   */
  async sizeAt(
    { url, authorization }: ProbedUrl,
    signal: AbortSignal,
    options: { readonly accept?: string; readonly isLent?: boolean } = {},
  ): Promise<number> {
    const { accept, isLent } = options;
    const headers = {
      range: 'bytes=0-0',
      ...(authorization !== undefined && { authorization }),
      ...(accept !== undefined && { accept }),
    };
    const followsRedirects = isLent !== true;
    const request: UrlRequest = { method: 'GET', url, headers, followsRedirects };
    const answer = await this.#firstByte(request, signal);
    const registry = /^https?:\/\/([^/?#]+)/.exec(url)?.[1] ?? '';
    const isFound = answer.status === 200 || answer.status === 206;
    const isPage = isFound && (await isPageOf(answer));
    answer.body.destroy();
    if (!isFound) throw refusalOf(answer, { registry });
    const sizeBytes =
      sizeOf(answer) ??
      (await this.#sizeBy('HEAD', request, signal)) ??
      (await this.#sizeBy('GET', request, signal));
    if (sizeBytes !== undefined && !isPage) return sizeBytes;
    const what = isPage ? 'a page' : 'something without a size';
    throw new AccessError(`${registry} answered with ${what}, not with the blob`, {
      code: 'other-content',
    });
  }

  /** Of a server that refuses all ranges, the whole: what is read of it is the head. */
  async #firstByte(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> {
    const answer = await this.#urls.open(request, signal);
    if (answer.status !== RANGE_NOT_SATISFIABLE) return answer;
    answer.body.destroy();
    const { range: _, ...headers } = request.headers;
    return this.#urls.open({ ...request, headers }, signal);
  }

  /**
   * The same of a manifest by its digest. Registries count a GET of it: a HEAD that names the
   * digest says the same, and where it does not a GET is made.
   */
  async manifestSizeAt({ url, authorization }: ProbedUrl, signal: AbortSignal): Promise<number> {
    // Without it some registries say that a manifest of a newer kind is not there.
    const accept = MANIFEST_ACCEPT;
    const headers = { accept, ...(authorization !== undefined && { authorization }) };
    const answer = await this.#urls.open({ method: 'HEAD', url, headers }, signal);
    answer.body.destroy();
    const isNamed = url.endsWith(`/${answer.headers['docker-content-digest'] ?? ''}`);
    const sizeBytes = answer.status === 200 && isNamed ? sizeOf(answer) : undefined;
    if (sizeBytes !== undefined && sizeBytes > 0) return sizeBytes;
    return this.sizeAt({ url, authorization }, signal, { accept });
  }

  /**
   * What a storage has at a URL without a digest: the strong ETag and the size. Undefined when the
   * answer is none of a storage (a page, a redirection, no part), or does not tell both. Rejects as
   * `sizeAt()` does.
   */
  async opaqueAt(
    url: string,
    signal: AbortSignal,
  ): Promise<{ readonly etag: string; readonly sizeBytes: number } | undefined> {
    const headers = { range: 'bytes=0-0' };
    const request: UrlRequest = { method: 'GET', url, headers, followsRedirects: false };
    const answer = await this.#urls.open(request, signal);
    answer.body.destroy();
    if (answer.status < 400) return opaqueOf(answer);
    const registry = /^https?:\/\/([^/?#]+)/.exec(url)?.[1] ?? '';
    throw refusalOf(answer, { registry });
  }

  /**
   * Where the answer to the GET leaves out the size, a request for the whole may tell it. The right
   * was shown by the GET.
   */
  async #sizeBy(
    method: 'GET' | 'HEAD',
    { url, headers, followsRedirects }: UrlRequest,
    signal: AbortSignal,
  ): Promise<number | undefined> {
    const { range: _, ...others } = headers;
    const follow = followsRedirects !== undefined && { followsRedirects };
    const whole = await this.#urls.open({ method, url, headers: others, ...follow }, signal);
    whole.body.destroy();
    return whole.status === 200 ? sizeOf(whole) : undefined;
  }
}

/** What tells an object from another one at the same path, if the answer does. */
export function opaqueOf({
  status,
  headers,
}: UrlHead): { readonly etag: string; readonly sizeBytes: number } | undefined {
  const sizeBytes = parseContentRange(headers['content-range'])?.total ?? 0;
  const etag = headers.etag ?? '';
  const isPage = isHtml(headers['content-type']);
  const isNamed = STRONG_ETAG.test(etag) && sizeBytes > 0 && sizeBytes <= BLOB_SIZE_BYTES_MAX;
  return status === 206 && isNamed && !isPage ? { etag, sizeBytes } : undefined;
}

/** Whether the answer is a page for people: its first piece tells, where it is a part. */
async function isPageOf({ status, headers, body }: UrlAnswer): Promise<boolean> {
  if (!isHtml(headers['content-type'])) return false;
  if (status !== 206) return true;
  for await (const piece of body) return beginsPage((piece as Uint8Array)[0]);
  return true;
}

/**
 * Of a part (206) the size of the whole; of a server that ignores ranges (200) its Content-Length.
 */
function sizeOf({ status, headers }: UrlAnswer): number | undefined {
  // A part that says 200 is one too.
  const range = headers['content-range'];
  if (status === 206 || range !== undefined) return parseContentRange(range)?.total;
  const length = headers['content-length'];
  return length !== undefined && /^[0-9]{1,15}$/.test(length) ? Number(length) : undefined;
}
