import type { Readable } from 'node:stream';
import { errorText } from '../util/errors.ts';
import { protocolError, RegistryError } from './errors.ts';
import { openRange } from './http/blob-range.ts';
import { EXCERPT_BYTES_MAX, follow, isRedirection, type Hop } from './http/follow.ts';
import type { HttpStream } from './http/message.ts';
import { registryServer } from './reference.ts';
import type { Registries } from './registries.ts';
import type { UrlAnswer, UrlRange, UrlRequest } from './url-client.ts';

const ABSOLUTE_URL = /^(https?):\/\/([^/?#]+)(\/[^?#]*)?(\?[^#]*)?$/;

/** Sends what UrlClient is asked to send. */
export class UrlSender {
  readonly #registries: Registries;

  constructor(components: { readonly registries: Registries }) {
    this.#registries = components.registries;
  }

  async open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> {
    const { url, rawPath, http } = this.#target(request.url);
    const { method, headers, followsRedirects = true } = request;
    const { authorization: _, ...others } = headers;
    const send = async (hop: Hop, redirects: number): Promise<HttpStream> => {
      const sent = {
        method,
        url: hop.url,
        rawPath: redirects === 0 ? rawPath : undefined,
        headers: hop.isServer ? headers : others,
        isPatient: true,
      };
      const answer = await http.stream(sent, signal);
      if (followsRedirects && isRedirection(method, answer.head.status)) await skip(answer.body);
      return answer;
    };
    const { head, body } = followsRedirects
      ? (await follow({ method, url }, send)).answer
      : await send({ url, isServer: true }, 0);
    return { ...head, body };
  }

  async fill(answer: UrlAnswer, range: UrlRange, what: string): Promise<void> {
    try {
      const sink = openRange(answer, range, what);
      if (sink.lengthBytes < range.target.length) {
        throw protocolError('short-body', `${what}: the server sent ${sink.lengthBytes} bytes`);
      }
      for await (const piece of answer.body) if (!sink.write(piece as Uint8Array)) return;
      sink.end();
    } catch (cause) {
      if (cause instanceof RegistryError) throw cause;
      throw protocolError('cut-body', `${what}: ${errorText(cause)}`, cause);
    } finally {
      answer.body.destroy();
    }
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
