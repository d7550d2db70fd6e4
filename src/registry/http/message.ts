import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';

/** A request for one URL. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly url: URL;
  /** Path and query as they are sent; those of the URL when absent. */
  readonly rawPath?: string | undefined;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: HttpBody | undefined;
  /** The caller bounds the wait for the head of the answer, however silent the server is. */
  readonly isPatient?: boolean | undefined;
  /** Silence that is waited for; 10 s when absent. */
  readonly silenceMs?: number | undefined;
  /** About what somebody named: see `Lane`. */
  readonly isQuestion?: boolean | undefined;
}

/** What is sent: a piece, or pieces from the start. Its length stands in the headers. */
export type HttpBody = Uint8Array | AsyncIterable<Uint8Array>;

/** Status and headers of an answer. */
export interface HttpHead {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: IncomingHttpHeaders;
}

/**
 * Takes the body of one answer. Whatever it throws ends the exchange, and is what the caller gets.
 */
export interface BodySink {
  /**
   * The sink may keep the piece. False when the rest is not wanted: the exchange has succeeded
   * then.
   */
  write(piece: Uint8Array): boolean;
  /** The body is complete. */
  end(): void;
  /** The connection broke within the body. True when the bytes that came suffice. */
  cut(): boolean;
}

/** An answer: its head, and the sink that took its body. */
export interface HttpAnswer<S> {
  readonly head: HttpHead;
  readonly sink: S;
}

/**
 * The head of an answer, whatever its status, and its body, which the caller reads to the end or
 * destroys.
 */
export interface HttpStream {
  readonly head: HttpHead;
  readonly body: Readable;
}

/** What a sink may do with the flow of its body. */
export interface Flow {
  pause(): void;
  resume(): void;
  /** The rest is not wanted. */
  stop(): void;
}

/** The URL without its query: signatures of storage servers are secrets. */
export function safeUrl(url: URL): string {
  return `${url.origin}${url.pathname}`;
}
