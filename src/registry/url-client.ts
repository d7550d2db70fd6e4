import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import type { Clock } from '../runtime/clock.ts';
import { silentMetrics, type Metrics } from '../runtime/metrics.ts';
import { errorText } from '../util/errors.ts';
import { openRange } from './http/blob-range.ts';
import { protocolError, RegistryError } from './errors.ts';
import { statusLabel } from './http/http.ts';
import { readLocation } from './http/location.ts';
import { registryMetrics, type RegistryMetrics } from './metrics.ts';
import { registryServer } from './reference.ts';
import { Registries, type RegistriesInit } from './registries.ts';

/** As the registry client follows. */
const REDIRECTS_MAX = 5;

/** Nothing arrives for this long, before the answer or within it: it is given up. (tunable) */
const SILENCE_MS_MAX = 10_000;

/** A redirection's body is read up to here, so that its connection can be used again. */
const REDIRECT_BODY_BYTES_MAX = 16 * 1024;

const ABSOLUTE_URL = /^(https?):\/\/([^/?#]+)(\/[^?#]*)?(\?[^#]*)?$/;

export interface UrlRequest {
  readonly method: 'GET' | 'HEAD';
  /** Absolute; sent as it is, its percent-encoding and its query untouched. */
  readonly url: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** False: a redirect is given as it is. True when absent. */
  readonly followsRedirects?: boolean;
}

/** The head of an answer, whatever its status, and its body, which the caller reads to the end or destroys. */
export interface UrlAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Readable;
}

/**
 * Sends requests of others to the URLs that they name, with the credentials that came with them and no others. Follows redirections; credentials
 * go to the host of the URL alone. What is configured of a registry (authorities, plain HTTP) holds for its host here too.
 *
 * Life: constructed -> used -> `close()`, which breaks off what is under way.
 */
export class UrlClient {
  readonly #registries: Registries;
  readonly #metrics: RegistryMetrics;

  constructor(
    components: { readonly clock: Clock; readonly metrics?: Metrics },
    init: RegistriesInit,
  ) {
    this.#metrics = registryMetrics(components.metrics ?? silentMetrics);
    const { clock } = components;
    this.#registries = new Registries({ clock, metrics: this.#metrics }, init);
  }

  /** Rejects with RegistryError when there is no answer, or with the signal's reason. */
  async open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> {
    let { origin, path } = this.#split(request.url);
    const { authorization, ...others } = request.headers;
    let headers: Record<string, string> = { ...request.headers };
    const { dispatcher } = this.#registries.get(origin.host);
    const first = origin.origin;
    for (let redirects = 0; redirects <= REDIRECTS_MAX; redirects++) {
      const answer = await this.#send(
        () =>
          dispatcher.request({
            origin: origin.origin,
            path,
            method: request.method,
            headers: { 'user-agent': 'xylem', 'accept-encoding': 'identity', ...headers },
            signal,
            headersTimeout: SILENCE_MS_MAX,
            bodyTimeout: SILENCE_MS_MAX,
          }),
        { what: `${request.method} ${origin.origin}`, method: request.method, signal },
      );
      const { statusCode: status, headers: answered, body } = answer;
      const head = { status, headers: answered };
      // Whoever reads it is told as well; one that nobody reads, or no longer, must not end the process.
      body.on('error', () => {});
      const isRedirect = [301, 302, 303, 307, 308].includes(status);
      if (!isRedirect || request.followsRedirects === false) return { ...head, body };
      await body.dump({ limit: REDIRECT_BODY_BYTES_MAX });
      const location = readLocation(head, new URL(path, origin));
      ({ origin, path } = { origin: location, path: `${location.pathname}${location.search}` });
      if (origin.origin !== first) headers = others;
    }
    const what = `${request.method} ${first}: more than ${REDIRECTS_MAX} redirections`;
    throw protocolError('too-many-redirects', what);
  }

  /** Fills the target with the body of an answer to a request for just that range. Rejects with RegistryError. */
  async fill(
    answer: UrlAnswer,
    range: { readonly offset: number; readonly target: Uint8Array; readonly sizeBytes: number },
    what: string,
  ): Promise<void> {
    try {
      const sink = openRange(answer, range, what);
      for await (const piece of answer.body) {
        this.#metrics.receivedBytes.inc({}, (piece as Uint8Array).length);
        if (!sink.write(piece as Uint8Array)) return;
      }
      sink.end();
    } catch (cause) {
      if (cause instanceof RegistryError) throw cause;
      throw protocolError('short-body', `${what}: ${errorText(cause)}`, cause);
    } finally {
      answer.body.destroy();
    }
  }

  close(): Promise<void> {
    return this.#registries.close();
  }

  /** The server, and the rest of the URL as it came. Of a configured registry the configuration says whether HTTP will do. */
  #split(url: string): { origin: URL; path: string } {
    const match = ABSOLUTE_URL.exec(url);
    if (match === null) throw protocolError('bad-location', 'it is no absolute http or https URL');
    const [, named = 'https', host = '', pathname = '/', query = ''] = match;
    const configured = this.#registries.isConfigured(host);
    const scheme = configured ? this.#registries.get(host).server.base.protocol : `${named}:`;
    return { origin: new URL(`${scheme}//${registryServer(host)}`), path: `${pathname}${query}` };
  }

  async #send<T extends { readonly statusCode: number }>(
    send: () => Promise<T>,
    about: { readonly what: string; readonly method: string; readonly signal: AbortSignal },
  ): Promise<T> {
    const { what, method, signal } = about;
    try {
      signal.throwIfAborted();
      const answer = await send();
      this.#metrics.requests.inc({ method, outcome: statusLabel(answer.statusCode) });
      return answer;
    } catch (cause) {
      signal.throwIfAborted();
      this.#metrics.requests.inc({ method, outcome: 'error' });
      if (cause instanceof RegistryError) throw cause;
      const why = `${what}: no answer: ${errorText(cause)}`;
      throw new RegistryError(why, { code: 'unavailable' }, { cause });
    }
  }
}
