import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import type { Digest } from '../image/digest.ts';
import type { Scatter } from '../util/scatter.ts';

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

/** A run of bytes of a blob that is read by a URL. */
export interface UrlRun {
  /** Names the blob: reads of it at a server that ignores ranges share their transfers. */
  readonly blob: Digest;
  readonly offset: number;
  readonly target: Scatter;
  /** Of the whole blob. */
  readonly sizeBytes: number;
  /** Throws when an answer with content (200, 206) is not of this blob; `fill()` rejects so. */
  readonly check?: (head: UrlHead) => void;
}

/** The head of an answer, whatever its status. */
export interface UrlHead {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
}

/** An answer, and its body, which the caller reads to the end or destroys. */
export interface UrlAnswer extends UrlHead {
  readonly body: Readable;
}

/** What sends the requests, once the HTTP client is loaded. */
interface Sender {
  open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer>;
  fill(request: UrlRequest, run: UrlRun, signal: AbortSignal): Promise<UrlHead | undefined>;
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
   * Fills the target with what it misses, as it comes, also by a server that ignores ranges. An
   * answer that is neither 200 nor 206 is the result, without its body. Rejects with RegistryError,
   * or with the signal's reason; then nothing more is written to the target.
   */
  async fill(request: UrlRequest, run: UrlRun, signal: AbortSignal): Promise<UrlHead | undefined> {
    const sender = await this.#load();
    return sender.fill(request, run, signal);
  }
}
