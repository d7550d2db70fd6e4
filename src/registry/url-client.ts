import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';

/** A request for a URL of a client. */
export interface UrlRequest {
  readonly method: 'GET' | 'HEAD';
  /** Absolute; sent as it is, its percent-encoding and its query untouched. */
  readonly url: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** False: the client gets a redirection as it is. */
  readonly followsRedirects?: boolean;
}

/** Where the body of the answer to a range request goes. */
export interface UrlRange {
  readonly offset: number;
  readonly target: Uint8Array;
  /** Of the whole blob. */
  readonly sizeBytes: number;
}

/**
 * The head of an answer, whatever its status, and its body, which the caller reads to the end or
 * destroys.
 */
export interface UrlAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Readable;
}

/** What sends the requests, once the HTTP client is loaded. */
interface Sender {
  open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer>;
  fill(answer: UrlAnswer, range: UrlRange, what: string): Promise<void>;
}

/**
 * The registries as local clients see them: sends their requests to the URLs that they name, with
 * the credentials that came with them and no others. Follows redirections; credentials go to the
 * host of the URL alone. What is configured of a registry (authorities, plain HTTP) holds for its
 * host here too. Hosts that the configuration does not name are reached at public addresses alone.
 */
export class UrlClient {
  readonly #load: () => Promise<Sender>;

  /** `load` brings the HTTP client, when a request first needs it. */
  constructor(components: { readonly load: () => Promise<Sender> }) {
    this.#load = components.load;
  }

  /** Rejects with RegistryError when there is no answer, or with the signal's reason. */
  async open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> {
    const sender = await this.#load();
    return sender.open(request, signal);
  }

  /**
   * Fills the target with the body of an answer to a request for just that range. Rejects with
   * RegistryError.
   */
  async fill(...answer: Parameters<Sender['fill']>): Promise<void> {
    const sender = await this.#load();
    return sender.fill(...answer);
  }
}
