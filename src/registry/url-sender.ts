import type { Readable } from 'node:stream';
import type { Clock } from '../runtime/clock.ts';
import { protocolError } from './errors.ts';
import {
  checkWhole,
  missingOf,
  openRange,
  RANGE_NOT_SATISFIABLE,
  rangeHeader,
} from './http/blob-range.ts';
import { EXCERPT_BYTES_MAX, follow, isRedirection, type Hop } from './http/follow.ts';
import type { HttpSender } from './http/http.ts';
import type { BodySink, Flow, HttpHead, HttpRequest } from './http/message.ts';
import { ExcerptSink, HeadSink } from './http/sinks.ts';
import { WholeReads, type Transfer } from './http/whole-reads.ts';
import { registryServer } from './reference.ts';
import type { Registries } from './registries.ts';
import type { UrlAnswer, UrlHead, UrlRequest, UrlRun } from './url-client.ts';

/** Parts in which a server may send one run. */
const PARTS_MAX = 64;

const ABSOLUTE_URL = /^(https?):\/\/([^/?#]+)(\/[^?#]*)?(\?[^#]*)?$/;

/** Sends what UrlClient is asked to send. */
export class UrlSender {
  readonly #registries: Registries;
  readonly #wholes: WholeReads;

  constructor(components: { readonly registries: Registries; readonly clock: Clock }) {
    this.#registries = components.registries;
    this.#wholes = new WholeReads(components);
  }

  async open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> {
    const { head, body } = await this.#follow(request, async (http, sent) => {
      const answer = await http.stream(sent, signal);
      if (leadsOn(request, answer.head)) await skip(answer.body);
      return answer;
    });
    return { ...head, body };
  }

  async fill(
    request: UrlRequest,
    { blob, check, ...run }: UrlRun,
    signal: AbortSignal,
  ): Promise<UrlHead | undefined> {
    try {
      for (let parts = 0; !run.target.isFull; parts++) {
        const range = missingOf(run);
        const header = rangeHeader(range);
        const what = `${header} of ${blob}`;
        if (parts === PARTS_MAX) throw protocolError('short-body', `${what}: too many parts`);
        const ranged = { ...request, headers: { ...request.headers, range: header } };
        const isRead = await this.#wholes.ranged(blob, () =>
          this.#read(
            ranged,
            (head) => {
              check?.(head);
              return openRange(head, range, what, 0);
            },
            signal,
          ),
        );
        if (isRead) continue;
        const transfer: Transfer = (open, transferSignal) =>
          this.#read(
            request,
            (head, flow) => {
              check?.(head);
              checkWhole(head, run.sizeBytes, what);
              return open(flow);
            },
            transferSignal,
          );
        await this.#wholes.read(blob, run, transfer, signal);
      }
      return undefined;
    } catch (error) {
      if (error instanceof Refused) return error.head;
      throw error;
    }
  }

  /** Throws Refused for an answer without the content. */
  async #read(
    request: UrlRequest,
    open: (head: HttpHead, flow: Flow) => BodySink,
    signal: AbortSignal,
  ): Promise<void> {
    const { head } = await this.#follow(request, (http, sent) =>
      http.send<BodySink>(
        sent,
        (head, flow) => {
          if (isContent(head) || isRangeRefused(sent, head)) return open(head, flow);
          return leadsOn(request, head)
            ? new ExcerptSink({ sizeBytesMax: EXCERPT_BYTES_MAX })
            : new HeadSink();
        },
        signal,
      ),
    );
    if (!isContent(head)) throw new Refused(head);
  }

  /** Sends the request, also to where it leads; credentials go to the first server alone. */
  async #follow<A extends { readonly head: HttpHead }>(
    { method, headers, url: text, followsRedirects = true }: UrlRequest,
    send: (http: HttpSender, sent: HttpRequest) => Promise<A>,
  ): Promise<A> {
    const { url, rawPath, http } = this.#target(text);
    const { authorization: _, ...others } = headers;
    const sendTo = (hop: Hop, redirects: number): Promise<A> =>
      send(http, {
        method,
        url: hop.url,
        rawPath: redirects === 0 ? rawPath : undefined,
        headers: hop.isServer ? headers : others,
        isPatient: true,
      });
    if (!followsRedirects) return sendTo({ url, isServer: true }, 0);
    return (await follow({ method, url }, sendTo, (to) => http.mayBePlain(to))).answer;
  }

  /**
   * The server, and the rest of the URL as it came. Of a configured registry the configuration says
   * whether HTTP will do.
   */
  #target(text: string) {
    const match = ABSOLUTE_URL.exec(text);
    if (match === null) throw protocolError('bad-location', 'it is no absolute http or https URL');
    const [, scheme = 'https', host = '', pathname = '/', query = ''] = match;
    const rawPath = `${pathname}${query}`;
    const { base, api, other } = this.#registries.senders(host);
    const isConfigured = this.#registries.isConfigured(host);
    const server = isConfigured ? base.origin : `${scheme}://${registryServer(host)}`;
    const url = new URL(`${server}${rawPath}`);
    // Whatever the server makes of `..`, the path must be one of the API either way.
    const isApi = [pathname, url.pathname].every((path) => path.startsWith('/v2/'));
    return { url, rawPath, http: isApi ? api : other };
  }
}

/** The server answered, and not with content. */
class Refused extends Error {
  readonly head: HttpHead;

  constructor(head: HttpHead) {
    super(`status ${head.status}`);
    this.head = head;
  }
}

function leadsOn({ method, followsRedirects = true }: UrlRequest, { status }: HttpHead): boolean {
  return followsRedirects && isRedirection(method, status);
}

/** Reads the body of a redirection, so that its connection can be used again. */
async function skip(body: Readable): Promise<void> {
  let lengthBytes = 0;
  try {
    for await (const piece of body) {
      lengthBytes += (piece as Uint8Array).length;
      if (lengthBytes > EXCERPT_BYTES_MAX) return;
    }
  } catch {
    // Where it leads is known.
  } finally {
    body.destroy();
  }
}

function isContent({ status }: HttpHead): boolean {
  return status === 200 || status === 206;
}

function isRangeRefused({ headers }: HttpRequest, { status }: HttpHead): boolean {
  return status === RANGE_NOT_SATISFIABLE && headers?.['range'] !== undefined;
}
