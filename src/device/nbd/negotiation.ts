import {
  ALLOCATION_CONTEXT,
  decodeOptionHeader,
  encodeOptionReply,
  EXPORT_FLAG,
  HANDSHAKE_FLAG,
  INFO,
  OPTION,
  OPTION_HEADER_BYTES,
  REPLY,
  STRING_BYTES_MAX,
  viewOf,
  writeU64,
} from './protocol.ts';

/**
 * Most bytes of one option: the longest name, its length, and some queries or kinds of information.
 */
const OPTION_BYTES_MAX = 4 * STRING_BYTES_MAX;

/**
 * Most options of one connection. A client that lists everything asks two for each export, and a
 * host has some hundred.
 */
const OPTIONS_MAX = 1024;

/** Smallest, best and largest size of a read, in bytes, as clients are told. */
export const BLOCK_SIZES = { min: 1, preferred: 4096, max: 32 * 1024 * 1024 } as const;

/** A device as clients of the handshake see it. */
export interface ExportInfo {
  readonly name: string;
  readonly sizeBytes: number;
  /** For people. */
  readonly description: string;
}

/** The devices that a client may choose from. */
export interface ExportNames<E extends ExportInfo> {
  /** The empty name asks for the default one. */
  find(name: string): E | undefined;
  list(): readonly E[];
}

/** What the two sides agreed on. */
export interface Session<E extends ExportInfo> {
  readonly export: E;
  readonly isStructured: boolean;
  /** Whether the client may ask for extents. */
  readonly hasAllocation: boolean;
}

/** What became of the bytes at hand. */
export interface NegotiationStep<E extends ExportInfo> {
  /** Bytes of the message, which are done with; 0 when it is not complete yet. */
  readonly used: number;
  readonly output: readonly Uint8Array[];
  /** `close` after the output; a session follows the output with commands. */
  readonly then: 'more' | 'close' | Session<E>;
}

/** Flags of every export. */
const FLAGS =
  EXPORT_FLAG.hasFlags |
  EXPORT_FLAG.readOnly |
  EXPORT_FLAG.sendFlush |
  EXPORT_FLAG.canMultiConn |
  EXPORT_FLAG.sendCache;

/**
 * The server's side of the handshake of one connection, after the greeting: takes the client's
 * messages one by one and says what to send. Never throws, for any bytes.
 */
export class Negotiation<E extends ExportInfo> {
  readonly #exports: ExportNames<E>;
  #clientFlags: number | undefined;
  #isStructured = false;
  /** Name of the export whose metadata context the client has chosen. */
  #contextOf: string | undefined;
  #options = 0;

  constructor(exports: ExportNames<E>) {
    this.#exports = exports;
  }

  /** Takes the message that the bytes begin with. */
  take(bytes: Uint8Array): NegotiationStep<E> {
    if (this.#clientFlags === undefined) return this.#takeFlags(bytes);
    if (bytes.length < OPTION_HEADER_BYTES) return INCOMPLETE;
    const header = decodeOptionHeader(bytes);
    if (header === undefined || header.length > OPTION_BYTES_MAX) return hangUp(bytes.length);
    if (++this.#options > OPTIONS_MAX) return hangUp(bytes.length);
    const used = OPTION_HEADER_BYTES + header.length;
    if (bytes.length < used) {
      this.#options--; // It comes again.
      return INCOMPLETE;
    }
    const data = bytes.subarray(OPTION_HEADER_BYTES, used);
    return { used, ...this.#answer(header.option, data) };
  }

  #takeFlags(bytes: Uint8Array): NegotiationStep<E> {
    if (bytes.length < 4) return INCOMPLETE;
    const flags = viewOf(bytes).getUint32(0);
    const known = HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes;
    if ((flags & ~known) !== 0) return hangUp(4);
    this.#clientFlags = flags;
    return { used: 4, output: [], then: 'more' };
  }

  #answer(option: number, data: Uint8Array): Omit<NegotiationStep<E>, 'used'> {
    switch (option) {
      case OPTION.exportName:
        return this.#enter(data);
      case OPTION.abort:
        return { output: [encodeOptionReply(option, REPLY.ack)], then: 'close' };
      case OPTION.list:
        return data.length === 0 ? replies(this.#list()) : refuse(option, 'invalid', NO_DATA);
      case OPTION.info:
      case OPTION.go:
        return this.#inform(option, data);
      case OPTION.structuredReply:
        if (data.length > 0) return refuse(option, 'invalid', NO_DATA);
        this.#isStructured = true;
        return replies([encodeOptionReply(option, REPLY.ack)]);
      case OPTION.listMetaContext:
      case OPTION.setMetaContext:
        return this.#contexts(option, data);
      case OPTION.startTls:
        return refuse(option, 'policy', 'this Unix socket has no TLS');
      default:
        return refuse(option, 'unsupported', 'this server does not know the option');
    }
  }

  /** The old way into the session: it has no room for an error. */
  #enter(data: Uint8Array): Omit<NegotiationStep<E>, 'used'> {
    const found = this.#exports.find(textOf(data));
    if (found === undefined) return { output: [], then: 'close' };
    const zeroes = ((this.#clientFlags ?? 0) & HANDSHAKE_FLAG.noZeroes) === 0 ? 124 : 0;
    const bytes = new Uint8Array(10 + zeroes);
    const view = viewOf(bytes);
    writeU64(view, 0, found.sizeBytes);
    view.setUint16(8, this.#flags());
    return { output: [bytes], then: this.#session(found) };
  }

  #list(): Uint8Array[] {
    const servers = this.#exports.list().map(({ name, description }) => {
      const text = Buffer.from(name);
      const data = Buffer.alloc(4 + text.length);
      data.writeUInt32BE(text.length, 0);
      data.set(text, 4);
      const all = Buffer.concat([data, Buffer.from(description)]);
      return encodeOptionReply(OPTION.list, REPLY.server, all);
    });
    return [...servers, encodeOptionReply(OPTION.list, REPLY.ack)];
  }

  #inform(option: number, data: Uint8Array): Omit<NegotiationStep<E>, 'used'> {
    const request = decodeInfoRequest(data);
    if (request === undefined) return refuse(option, 'invalid', 'its data has another form');
    const found = this.#exports.find(request.name);
    if (found === undefined) return refuse(option, 'unknown', 'no device has this name');
    const output = [
      infoReply(option, this.#exportInfo(found)),
      infoReply(option, blockSizeInfo()),
      ...(request.wants.has(INFO.name) ? [infoReply(option, textInfo(INFO.name, found.name))] : []),
      ...(request.wants.has(INFO.description)
        ? [infoReply(option, textInfo(INFO.description, found.description))]
        : []),
      encodeOptionReply(option, REPLY.ack),
    ];
    return { output, then: option === OPTION.go ? this.#session(found) : 'more' };
  }

  #exportInfo({ sizeBytes }: E): Uint8Array {
    const data = new Uint8Array(12);
    const view = viewOf(data);
    view.setUint16(0, INFO.export);
    writeU64(view, 2, sizeBytes);
    view.setUint16(10, this.#flags());
    return data;
  }

  #contexts(option: number, data: Uint8Array): Omit<NegotiationStep<E>, 'used'> {
    const isSet = option === OPTION.setMetaContext;
    if (isSet) this.#contextOf = undefined;
    if (!this.#isStructured) return refuse(option, 'invalid', 'it needs structured replies');
    const request = decodeContextRequest(data);
    if (request === undefined) return refuse(option, 'invalid', 'its data has another form');
    const found = this.#exports.find(request.name);
    if (found === undefined) return refuse(option, 'unknown', 'no device has this name');
    const { queries } = request;
    const isMeant =
      queries.includes(ALLOCATION_CONTEXT.name) ||
      (!isSet && (queries.length === 0 || queries.includes('base:')));
    const output = [encodeOptionReply(option, REPLY.ack)];
    if (isMeant) {
      if (isSet) this.#contextOf = found.name;
      output.unshift(encodeOptionReply(option, REPLY.metaContext, contextData(isSet)));
    }
    return replies(output);
  }

  #flags(): number {
    return this.#isStructured ? FLAGS | EXPORT_FLAG.sendDontFragment : FLAGS;
  }

  #session(chosen: E): Session<E> {
    return {
      export: chosen,
      isStructured: this.#isStructured,
      hasAllocation: this.#contextOf === chosen.name,
    };
  }
}

const INCOMPLETE = { used: 0, output: [], then: 'more' } as const;
const NO_DATA = 'it has no data';

function hangUp(used: number): { used: number; output: []; then: 'close' } {
  return { used, output: [], then: 'close' };
}

function replies(output: readonly Uint8Array[]): {
  output: readonly Uint8Array[];
  then: 'more';
} {
  return { output, then: 'more' };
}

function refuse(
  option: number,
  why: 'invalid' | 'unknown' | 'policy' | 'unsupported',
  text: string,
): { output: readonly Uint8Array[]; then: 'more' } {
  return replies([encodeOptionReply(option, REPLY[why], Buffer.from(text))]);
}

function infoReply(option: number, data: Uint8Array): Uint8Array {
  return encodeOptionReply(option, REPLY.info, data);
}

function blockSizeInfo(): Uint8Array {
  const data = new Uint8Array(14);
  const view = viewOf(data);
  view.setUint16(0, INFO.blockSize);
  view.setUint32(2, BLOCK_SIZES.min);
  view.setUint32(6, BLOCK_SIZES.preferred);
  view.setUint32(10, BLOCK_SIZES.max);
  return data;
}

function textInfo(kind: number, text: string): Uint8Array {
  return Buffer.concat([Buffer.from([0, kind]), Buffer.from(text)]);
}

function contextData(isSet: boolean): Uint8Array {
  const id = Buffer.alloc(4);
  id.writeUInt32BE(isSet ? ALLOCATION_CONTEXT.id : 0);
  return Buffer.concat([id, Buffer.from(ALLOCATION_CONTEXT.name)]);
}

/** Name length u32 | name | count u16 | kinds u16. */
function decodeInfoRequest(
  data: Uint8Array,
): { name: string; wants: ReadonlySet<number> } | undefined {
  const name = stringAt(data, 0);
  if (name === undefined || data.length < name.end + 2) return undefined;
  const view = viewOf(data);
  const count = view.getUint16(name.end);
  if (data.length !== name.end + 2 + 2 * count) return undefined;
  const wants = new Set<number>();
  for (let i = 0; i < count; i++) wants.add(view.getUint16(name.end + 2 + 2 * i));
  return { name: name.text, wants };
}

/** Name length u32 | name | count u32 | queries, each length u32 | text. */
function decodeContextRequest(
  data: Uint8Array,
): { name: string; queries: readonly string[] } | undefined {
  const name = stringAt(data, 0);
  if (name === undefined || data.length < name.end + 4) return undefined;
  const count = viewOf(data).getUint32(name.end);
  let at = name.end + 4;
  const queries: string[] = [];
  while (at < data.length && queries.length < count) {
    const query = stringAt(data, at);
    if (query === undefined) return undefined;
    queries.push(query.text);
    at = query.end;
  }
  return queries.length === count && at === data.length ? { name: name.text, queries } : undefined;
}

function stringAt(data: Uint8Array, at: number): { text: string; end: number } | undefined {
  if (data.length < at + 4) return undefined;
  const length = viewOf(data).getUint32(at);
  const end = at + 4 + length;
  if (length > STRING_BYTES_MAX || end > data.length) return undefined;
  return { text: textOf(data.subarray(at + 4, end)), end };
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString();
}
