import { errorText } from '../../util/errors.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { DiskExtent, ReadOnlyDisk } from '../disk.ts';
import type { DeviceMetrics } from '../metrics.ts';
import { BLOCK_SIZES, type ExportInfo, type Session } from './negotiation.ts';
import { Outbox } from './outbox.ts';
import {
  COMMAND,
  COMMAND_FLAG,
  DATA_CHUNK_BYTES,
  encodeBlockStatus,
  encodeErrorChunk,
  encodeErrorOffsetChunk,
  encodeNoneChunk,
  NBD_ERROR,
  SIMPLE_REPLY_BYTES,
  writeDataChunk,
  writeSimpleReply,
  type NbdCommand,
} from './protocol.ts';

/** Most commands of one connection that wait for the disk. Clients send 64 to 128 at a time. */
const WAITING_MAX = 256;

/** Bytes that those may take in memory, until the next command waits: what nbdcopy asks for. */
const WAITING_BYTES_MAX = 16 * 1024 * 1024;

/**
 * Bytes of the parts into which a long read is cut, so that the client gets what comes first, and
 * the rest when some of it cannot be read.
 */
const PART_BYTES = 256 * 1024;

/** Parts of one read in flight: enough to hide the way to a parent. */
const PARTS_MAX = 4;

/** Most extents of one answer: 8 KiB. A client asks again where they end. */
const EXTENTS_MAX = 1024;

/** A device that is read over NBD. */
export interface ReadableExport extends ExportInfo {
  readonly disk: ReadOnlyDisk;
}

/**
 * The commands of one session. Reads of bytes in memory are answered at once, others in the order
 * in which the disk has them.
 *
 * Life: constructed -> `take()` for each command, while `isFull` is false -> `close()`, after which
 * nothing is sent.
 */
export class Transmission {
  readonly #parts: { clock: Clock; logger: Logger; metrics: DeviceMetrics };
  readonly #session: Session<ReadableExport>;
  readonly #outbox: Outbox;
  readonly #resume: () => void;
  readonly #jobs = new Set<Promise<void>>();
  #waitingBytes = 0;
  #isClosed = false;

  /** `resume` is called when `isFull` may have become false. */
  constructor(
    parts: { clock: Clock; logger: Logger; metrics: DeviceMetrics },
    session: Session<ReadableExport>,
    { outbox, resume }: { outbox: Outbox; resume: () => void },
  ) {
    this.#parts = parts;
    this.#session = session;
    this.#outbox = outbox;
    this.#resume = resume;
  }

  /** Whether the next command has to wait. */
  get isFull(): boolean {
    return this.#jobs.size >= WAITING_MAX || this.#waitingBytes >= WAITING_BYTES_MAX;
  }

  /** Resolves when every command has its reply. */
  async idle(): Promise<void> {
    await Promise.all(this.#jobs);
  }

  /** Ends it without replies to what is in flight. */
  close(): void {
    this.#isClosed = true;
  }

  /**
   * Carries out a command. `skip`: the data of a write follows, which ends with `refuseWrite()`.
   * `end`: the client wants no more than the replies it is owed.
   */
  take(command: NbdCommand): 'done' | 'skip' | 'end' {
    switch (command.type) {
      case COMMAND.disconnect:
        return 'end';
      case COMMAND.write:
        if (command.length > 0) return 'skip';
        this.refuseWrite(command);
        return 'done';
      case COMMAND.trim:
      case COMMAND.writeZeroes:
        this.refuseWrite(command);
        return 'done';
      default:
        this.#answer(command);
        return 'done';
    }
  }

  /** Answers a command that would change the device. */
  refuseWrite(command: NbdCommand): void {
    this.#fail(command, NBD_ERROR.EPERM, 'the device is read-only');
  }

  #answer(command: NbdCommand): void {
    const fault = this.#faultOf(command);
    if (fault !== undefined) return this.#fail(command, NBD_ERROR.EINVAL, fault);
    switch (command.type) {
      case COMMAND.flush:
        return this.#succeed(command);
      case COMMAND.blockStatus:
        return this.#outbox.put(encodeBlockStatus(command.cookie, this.#extentsOf(command)));
      case COMMAND.cache:
        return this.#start(PARTS_MAX * PART_BYTES, this.#cache(command));
      default:
        if (!this.#readNow(command)) this.#readLater(command);
    }
  }

  /** What is wrong with a command; undefined when nothing is. */
  #faultOf({ type, flags, offset, length }: NbdCommand): string | undefined {
    const { isStructured, hasAllocation } = this.#session;
    const allowed = flagsOf(type, isStructured);
    if (allowed === undefined) return 'this server does not know the command';
    if ((flags & ~allowed) !== 0) return 'the command has no such flag';
    if (type === COMMAND.flush) return undefined;
    if (type === COMMAND.blockStatus && !hasAllocation) return 'no metadata context was chosen';
    if (length === 0) return 'the length is 0';
    if (type === COMMAND.read && length > BLOCK_SIZES.max) return 'the read is too long';
    const { sizeBytes } = this.#session.export;
    return offset + length > sizeBytes ? 'the range does not lie in the device' : undefined;
  }

  #extentsOf({ offset, length, flags }: NbdCommand): readonly DiskExtent[] {
    const { disk } = this.#session.export;
    const countMax = (flags & COMMAND_FLAG.oneExtent) === 0 ? EXTENTS_MAX : 1;
    return disk.extents?.(offset, length, countMax) ?? [{ length, isZero: false }];
  }

  /** Answers a read whose bytes are in memory; false when they are not. */
  #readNow(command: NbdCommand): boolean {
    const { offset, length } = command;
    const head = this.#headBytes;
    if (head + length > Outbox.bytesMax) return false;
    const room = this.#outbox.reserve(head + length);
    try {
      if (!this.#session.export.disk.readSync(room.subarray(head), offset)) return false;
    } catch (error) {
      this.#failRead(command, error);
      return true;
    }
    this.#writeHead(room, command, command, true);
    this.#outbox.commit(head + length);
    this.#parts.metrics.readBytes.inc({ from: 'memory' }, length);
    return true;
  }

  #readLater(command: NbdCommand): void {
    const { flags, offset, length } = command;
    const mayCut = this.#session.isStructured && (flags & COMMAND_FLAG.dontFragment) === 0;
    const isLong =
      Math.floor(offset / PART_BYTES) !== Math.floor((offset + length - 1) / PART_BYTES);
    if (mayCut && isLong) this.#start(PARTS_MAX * PART_BYTES, this.#readParts(command));
    else this.#start(length, this.#readWhole(command));
  }

  /** Keeps count of work in flight, which never rejects. */
  #start(bytes: number, work: Promise<void>): void {
    const startMs = this.#parts.clock.nowMs();
    this.#waitingBytes += bytes;
    const job = work.then(() => {
      this.#waitingBytes -= bytes;
      this.#jobs.delete(job);
      this.#parts.metrics.waitSeconds.observe({}, (this.#parts.clock.nowMs() - startMs) / 1000);
      this.#resume();
    });
    this.#jobs.add(job);
  }

  async #readWhole(command: NbdCommand): Promise<void> {
    try {
      await this.#send(command, command, true);
    } catch (error) {
      if (!this.#isClosed) this.#failRead(command, error);
    }
  }

  /** Sends the parts that can be read, and where the first ones begin that cannot. */
  async #readParts(command: NbdCommand): Promise<void> {
    await this.#eachPart(command, async (part) => {
      try {
        await this.#send(command, part, false);
        return true;
      } catch (error) {
        if (this.#isClosed) return false;
        this.#noteFailure(part, error);
        this.#outbox.put(encodeErrorOffsetChunk(command.cookie, NBD_ERROR.EIO, part.offset));
        return false;
      }
    });
    if (!this.#isClosed) this.#outbox.put(encodeNoneChunk(command.cookie));
  }

  /** Reads a range for the sake of the caches below. */
  async #cache(command: NbdCommand): Promise<void> {
    let failure: unknown;
    await this.#eachPart(command, async ({ offset, length }) => {
      try {
        await this.#session.export.disk.read(new Uint8Array(length), offset);
        return true;
      } catch (error) {
        failure = error;
        return false;
      }
    });
    if (this.#isClosed) return;
    if (failure === undefined) this.#succeed(command);
    else this.#failRead(command, failure);
  }

  /**
   * Does the work for each part of a range, some at a time. Begins no more once it has given false,
   * so that a range which cannot be read takes one deadline, not one for each part.
   */
  async #eachPart(
    { offset, length }: Range,
    work: (part: Range) => Promise<boolean>,
  ): Promise<void> {
    const end = offset + length;
    let at = offset;
    const runner = async (): Promise<void> => {
      while (at < end && !this.#isClosed) {
        const from = at;
        at = Math.min(end, (Math.floor(from / PART_BYTES) + 1) * PART_BYTES);
        if (!(await work({ offset: from, length: at - from }))) at = end;
      }
    };
    await Promise.all(Array.from({ length: PARTS_MAX }, runner));
  }

  /** Reads a range and sends it; resolves when the kernel has it. Rejects when the disk does. */
  async #send(command: NbdCommand, range: Range, isLast: boolean): Promise<void> {
    const { offset, length } = range;
    const head = this.#headBytes;
    const bytes = Buffer.allocUnsafeSlow(head + length);
    await this.#session.export.disk.read(bytes.subarray(head), offset);
    this.#parts.metrics.readBytes.inc({ from: 'fetched' }, length);
    if (this.#isClosed) return;
    this.#writeHead(bytes, command, range, isLast);
    await this.#outbox.send(bytes);
  }

  get #headBytes(): number {
    return this.#session.isStructured ? DATA_CHUNK_BYTES : SIMPLE_REPLY_BYTES;
  }

  #writeHead(target: Uint8Array, { cookie }: NbdCommand, range: Range, isLast: boolean): void {
    const { offset, length } = range;
    if (this.#session.isStructured) writeDataChunk(target, cookie, { offset, length, isLast });
    else writeSimpleReply(target, cookie, 0);
  }

  #succeed({ cookie }: NbdCommand): void {
    if (this.#session.isStructured) this.#outbox.put(encodeNoneChunk(cookie));
    else this.#putSimple({ cookie }, 0);
  }

  #failRead(command: NbdCommand, error: unknown): void {
    this.#noteFailure(command, error);
    this.#fail(command, NBD_ERROR.EIO, errorText(error));
  }

  #noteFailure({ offset, length }: Range, error: unknown): void {
    this.#parts.metrics.readErrors.inc({});
    this.#parts.logger.error(
      { export: this.#session.export.name, offset, length, error: errorText(error) },
      'device read failed: the reader gets EIO',
    );
  }

  #fail(command: NbdCommand, error: number, reason: string): void {
    if (this.#session.isStructured) {
      this.#outbox.put(encodeErrorChunk(command.cookie, error, reason));
    } else this.#putSimple(command, error);
  }

  #putSimple({ cookie }: Pick<NbdCommand, 'cookie'>, error: number): void {
    writeSimpleReply(this.#outbox.reserve(SIMPLE_REPLY_BYTES), cookie, error);
    this.#outbox.commit(SIMPLE_REPLY_BYTES);
  }
}

interface Range {
  readonly offset: number;
  readonly length: number;
}

/** The flags that a command may have; undefined for an unknown one. */
function flagsOf(type: number, isStructured: boolean): number | undefined {
  switch (type) {
    case COMMAND.read:
      return isStructured ? COMMAND_FLAG.dontFragment : 0;
    case COMMAND.blockStatus:
      return COMMAND_FLAG.oneExtent;
    case COMMAND.cache:
    case COMMAND.flush:
      return 0;
    default:
      return undefined;
  }
}
