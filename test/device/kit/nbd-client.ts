import { once } from 'node:events';
import { connect as connectSocket, Socket } from 'node:net';

/** A reply to an option. */
export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

/** All that came in answer to one command. */
export interface CommandReply {
  /** Error number of a simple reply, or of the first error chunk; 0 for success. */
  readonly error: number;
  readonly reason: string;
  /** Data by offset, in the order of its arrival. */
  readonly data: readonly { readonly offset: number; readonly bytes: Buffer }[];
  /** Offsets of errors that have one. */
  readonly errorOffsets: readonly number[];
  /** Extents, as length and flags. */
  readonly extents: readonly (readonly [length: number, flags: number])[];
}

interface Waiting {
  readonly length: number;
  readonly offset: number;
  readonly resolve: (reply: CommandReply) => void;
  readonly reject: (error: Error) => void;
  reply: CommandReply;
}

const EMPTY: CommandReply = { error: 0, reason: '', data: [], errorOffsets: [], extents: [] };

const OPTION = { go: 7, structuredReply: 8, setMetaContext: 10 };
const READ = 0;

/**
 * An NBD client of its own, apart from the server's code: it knows the protocol by numbers.
 *
 * Life: `open()` -> `option()` any number of times -> `enter()` -> `command()`, many at a time.
 */
export class NbdClient {
  readonly socket: Socket;
  isStructured = false;
  exportFlags = 0;
  sizeBytes = 0;
  #received = Buffer.alloc(0);
  #wake: () => void = () => {};
  #next = 1;
  readonly #waiting = new Map<number, Waiting>();
  #failure: Error | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (bytes) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#failure = new Error('the server hung up');
      this.#wake();
      for (const { reject } of this.#waiting.values()) reject(this.#failure);
      this.#waiting.clear();
    });
  }

  /** Connects and says the flags in answer to the greeting. */
  static async open(path: string, flags = 3): Promise<NbdClient> {
    const socket = connectSocket(path);
    await once(socket, 'connect');
    const client = new NbdClient(socket);
    const greeting = await client.#take(18);
    if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('no greeting');
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(flags);
    socket.write(answer);
    return client;
  }

  /** A client of a session without a handshake. */
  static onDescriptor(fd: number): NbdClient {
    const client = new NbdClient(new Socket({ fd }));
    client.startReplies();
    return client;
  }

  /** A client that has chosen a device, with structured replies and extents unless told not to. */
  static async enter(
    path: string,
    name = '',
    { structured = true }: { structured?: boolean } = {},
  ): Promise<NbdClient> {
    const client = await NbdClient.open(path);
    if (structured) {
      await client.option(OPTION.structuredReply);
      client.isStructured = true;
      const queries = Buffer.concat([u32(1), text('base:allocation')]);
      await client.option(OPTION.setMetaContext, Buffer.concat([text(name), queries]));
    }
    await client.go(name);
    return client;
  }

  /** Asks with an option; gives all replies to it. */
  async option(option: number, data: Buffer = Buffer.alloc(0)): Promise<OptionReply[]> {
    this.socket.write(
      Buffer.concat([Buffer.from('IHAVEOPT'), u32(option), u32(data.length), data]),
    );
    const replies: OptionReply[] = [];
    for (;;) {
      const head = await this.#take(20);
      if (head.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error('no option reply');
      const type = head.readUInt32BE(12);
      const reply = await this.#take(head.readUInt32BE(16));
      replies.push({ option: head.readUInt32BE(8), type, data: reply });
      if (type === 1 || type >= 2 ** 31) return replies;
    }
  }

  /** Chooses a device and begins the session. */
  async go(name: string): Promise<OptionReply[]> {
    const replies = await this.option(OPTION.go, Buffer.concat([text(name), Buffer.alloc(2)]));
    if (replies.at(-1)?.type !== 1) throw new Error(`GO: ${replies.at(-1)?.data.toString()}`);
    const info = replies.find(({ data }) => data.length === 12 && data.readUInt16BE(0) === 0);
    if (info === undefined) throw new Error('no size');
    this.sizeBytes = Number(info.data.readBigUInt64BE(2));
    this.exportFlags = info.data.readUInt16BE(10);
    this.startReplies();
    return replies;
  }

  /** Enters by the old option. */
  async enterOldStyle(name: string, trailing: number): Promise<void> {
    this.socket.write(Buffer.concat([Buffer.from('IHAVEOPT'), u32(1), text(name)]));
    const answer = await this.#take(10 + trailing);
    this.sizeBytes = Number(answer.readBigUInt64BE(0));
    this.exportFlags = answer.readUInt16BE(8);
    this.startReplies();
  }

  /** Bytes of a range; rejects with the error number when any of it fails. */
  async read(offset: number, length: number): Promise<Buffer> {
    const { error, reason, data } = await this.command(READ, { offset, length });
    if (error !== 0) throw Object.assign(new Error(`error ${error}: ${reason}`), { errno: error });
    const bytes = Buffer.alloc(length);
    let filled = 0;
    for (const part of data) {
      bytes.set(part.bytes, part.offset - offset);
      filled += part.bytes.length;
    }
    if (filled !== length) throw new Error(`${filled} of ${length} bytes came`);
    return bytes;
  }

  /** Sends a command; resolves with everything that belongs to it. */
  command(
    type: number,
    init: { flags?: number; offset?: number; length?: number; data?: Buffer } = {},
  ): Promise<CommandReply> {
    const { flags = 0, offset = 0, length = 0, data = Buffer.alloc(0) } = init;
    const cookie = this.#next++;
    const bytes = Buffer.alloc(28);
    bytes.writeUInt32BE(0x25609513, 0);
    bytes.writeUInt16BE(flags, 4);
    bytes.writeUInt16BE(type, 6);
    bytes.writeUInt32BE(0xfeedface, 8);
    bytes.writeUInt32BE(cookie, 12);
    bytes.writeBigUInt64BE(BigInt(offset), 16);
    bytes.writeUInt32BE(length, 24);
    const { promise, resolve, reject } = Promise.withResolvers<CommandReply>();
    if (this.#failure !== undefined) reject(this.#failure);
    const dataBytes = type === READ ? length : 0;
    this.#waiting.set(cookie, { length: dataBytes, offset, resolve, reject, reply: EMPTY });
    this.socket.write(Buffer.concat([bytes, data]));
    return promise;
  }

  /** Commands without a reply, among them. */
  get waitingCount(): number {
    return this.#waiting.size;
  }

  /** Resolves when the connection is closed. */
  async closed(): Promise<void> {
    if (!this.socket.closed) await once(this.socket, 'close');
  }

  close(): void {
    this.socket.destroy();
  }

  /** Takes replies to commands from now on. */
  startReplies(): void {
    void this.#takeReplies().catch((error: unknown) => {
      for (const { reject } of this.#waiting.values()) reject(error as Error);
      this.#waiting.clear();
    });
  }

  async #takeReplies(): Promise<void> {
    for (;;) {
      const head = await this.#take(16);
      const magic = head.readUInt32BE(0);
      if (head.readUInt32BE(8) !== 0xfeedface) throw new Error('a reply to nothing');
      const cookie = head.readUInt32BE(12);
      const waiting = this.#waiting.get(cookie);
      if (waiting === undefined) throw new Error('a reply to nothing');
      if (magic === 0x67446698) await this.#takeSimple(waiting, head.readUInt32BE(4));
      else if (magic !== 0x668e33ef) throw new Error('no reply');
      else if (!(await this.#takeChunk(waiting, head))) continue;
      this.#waiting.delete(cookie);
      waiting.resolve(waiting.reply);
    }
  }

  async #takeSimple(waiting: Waiting, error: number): Promise<void> {
    const bytes = await this.#take(error === 0 ? waiting.length : 0);
    const data = bytes.length > 0 ? [{ offset: waiting.offset, bytes }] : [];
    waiting.reply = { ...EMPTY, error, data };
  }

  /** Whether it was the last one. */
  async #takeChunk(waiting: Waiting, head: Buffer): Promise<boolean> {
    const [flags, type] = [head.readUInt16BE(4), head.readUInt16BE(6)];
    const payload = await this.#take((await this.#take(4)).readUInt32BE(0));
    const { reply } = waiting;
    if (type === 1) {
      const part = { offset: Number(payload.readBigUInt64BE(0)), bytes: payload.subarray(8) };
      waiting.reply = { ...reply, data: [...reply.data, part] };
    } else if (type === 5) {
      const extents: [number, number][] = [];
      for (let at = 4; at < payload.length; at += 8) {
        extents.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
      }
      waiting.reply = { ...reply, extents };
    } else if (type >= 0x8000) {
      const error = reply.error === 0 ? payload.readUInt32BE(0) : reply.error;
      const length = payload.readUInt16BE(4);
      const reason = payload.toString('utf8', 6, 6 + length);
      const at = type === 0x8002 ? [Number(payload.readBigUInt64BE(6 + length))] : [];
      waiting.reply = { ...reply, error, reason, errorOffsets: [...reply.errorOffsets, ...at] };
    }
    return (flags & 1) !== 0;
  }

  async #take(count: number): Promise<Buffer> {
    while (this.#received.length < count) {
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#received.subarray(0, count);
    this.#received = this.#received.subarray(count);
    return taken;
  }
}

/** A u32 as NBD has it. */
export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** A text behind its length. */
export function text(value: string): Buffer {
  return Buffer.concat([u32(Buffer.byteLength(value)), Buffer.from(value)]);
}
