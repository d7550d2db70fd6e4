import { connect as connectHttp2, constants, type ClientHttp2Session } from 'node:http2';
import { connect } from 'node:net';

/**
 * A client of gRPC that shares nothing with the server: HTTP/2 of Node, and messages of protobuf
 * put together by hand, field by field (protobuf.dev/programming-guides/encoding).
 */
export class RawClient {
  readonly #session: ClientHttp2Session;

  constructor(socket: string) {
    this.#session = connectHttp2('http://localhost', { createConnection: () => connect(socket) });
    this.#session.on('error', () => {});
  }

  /** Calls a method of the service with a message; gives the messages of the answer. */
  async call(
    method: string,
    message: Buffer,
    options: { readonly signal?: AbortSignal; readonly service?: string } = {},
  ): Promise<RawAnswer> {
    const { service = 'containerd.services.snapshots.v1.Snapshots', signal } = options;
    const stream = this.#session.request({
      ':method': 'POST',
      ':path': `/${service}/${method}`,
      'content-type': 'application/grpc',
      te: 'trailers',
      'containerd-namespace': 'test',
    });
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([head, message]));
    signal?.addEventListener('abort', () => stream.close(constants.NGHTTP2_CANCEL));
    return new Promise((resolve, reject) => {
      const pieces: Buffer[] = [];
      let [status, text] = ['', ''];
      const note = (headers: Readonly<Record<string, unknown>>): void => {
        status = String(headers['grpc-status'] ?? status);
        text = decodeURIComponent(String(headers['grpc-message'] ?? text));
      };
      stream.on('response', note).on('trailers', note);
      stream.on('data', (piece: Buffer) => pieces.push(piece));
      stream.on('error', reject);
      stream.on('close', () =>
        resolve({ status: Number(status), text, messages: messagesIn(Buffer.concat(pieces)) }),
      );
    });
  }

  close(): void {
    this.#session.destroy();
  }
}

/** What a call ended with. */
export interface RawAnswer {
  readonly status: number;
  readonly text: string;
  readonly messages: readonly Buffer[];
}

/** Values of fields by their numbers: numbers, or bytes. */
export type Fields = ReadonlyMap<number, readonly (number | Buffer)[]>;

function messagesIn(bytes: Buffer): readonly Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at + 1);
    found.push(bytes.subarray(at + 5, at + 5 + length));
    at += 5 + length;
  }
  return found;
}

/** A field with a text, bytes, or another message. */
export function field(number: number, content: string | Buffer): Buffer {
  const bytes = Buffer.from(content);
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

/** Fields one after another. */
export function message(...fields: readonly Buffer[]): Buffer {
  return Buffer.concat(fields);
}

/** A map of texts. */
export function labels(number: number, entries: Readonly<Record<string, string>>): Buffer {
  return message(
    ...Object.entries(entries).map(([key, value]) =>
      field(number, message(field(1, key), field(2, value))),
    ),
  );
}

/** The fields of a message. */
export function fieldsOf(bytes: Buffer | undefined): Fields {
  const found = new Map<number, (number | Buffer)[]>();
  let at = 0;
  const next = (): number => {
    let [value, factor] = [0, 1];
    for (;;) {
      const byte = bytes?.[at++] ?? 0;
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
  };
  while (bytes !== undefined && at < bytes.length) {
    const tag = next();
    const value = next();
    const number = Math.floor(tag / 8);
    const values = found.get(number) ?? [];
    found.set(number, values);
    if (tag % 8 === 0) values.push(value);
    else {
      values.push(bytes.subarray(at, at + value));
      at += value;
    }
  }
  return found;
}

/** The texts of a field. */
export function textsAt(fields: Fields, number: number): readonly string[] {
  return (fields.get(number) ?? []).map((value) => value.toString());
}

/** The messages of a field. */
export function messagesAt(fields: Fields, number: number): readonly Fields[] {
  return (fields.get(number) ?? []).map((value) => fieldsOf(value as Buffer));
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return Buffer.from([...bytes, value]);
}
