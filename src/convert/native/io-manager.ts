import koffi, { type TypeObject } from 'koffi';
import type { Pointer } from './libext2fs.ts';

/** Bytes that libext2fs reads and writes: blocks of one size, changed by `setBlockSize()`. */
export interface BlockIo {
  /** Sets the unit of `block`: 1,024 bytes while the superblock is read, then the file system's. */
  setBlockSize(bytes: number): void;
  /** Fills `target` from the start of `block`. */
  read(block: number, target: Uint8Array): void;
  write(block: number, bytes: Uint8Array): void;
}

/**
 * Number of com_err for a short read (EXT2_ET_SHORT_READ), which callers report as an I/O error.
 */
const SHORT_READ = 2133571364;

const Channel = koffi.struct('xylem_io_channel', {
  magic: 'long',
  manager: 'void *',
  name: 'const char *',
  blockSize: 'int',
  readError: 'void *',
  writeError: 'void *',
  refcount: 'int',
  flags: 'int',
  reserved: koffi.array('long', 14),
  privateData: 'void *',
  appData: 'void *',
  align: 'int',
});

const protos = {
  open: koffi.proto('long xylem_io_open(const char *name, int flags, void *result)'),
  close: koffi.proto('long xylem_io_close(void *channel)'),
  setBlockSize: koffi.proto('long xylem_io_blksize(void *channel, int size)'),
  transfer: koffi.proto(
    'long xylem_io_transfer(void *channel, unsigned long block, int count, void *data)',
  ),
  flush: koffi.proto('long xylem_io_flush(void *channel)'),
  zeroOut: koffi.proto('long xylem_io_zeroout(void *channel, uint64_t block, uint64_t count)'),
};

/** Numbers that mark the two structures (ext2_err.h). */
const MANAGER_MAGIC = 2133571335n;
const CHANNEL_MAGIC = 2133571333;

/** The members of `struct struct_io_manager` (ext2_io.h), in order; `reserved` follows. */
const MANAGER_MEMBERS = [
  'magic',
  'name',
  'open',
  'close',
  'setBlockSize',
  'read',
  'write',
  'flush',
  'writeByte',
  'setOption',
  'getStats',
  'read64',
  'write64',
  'discard',
  'readahead',
  'zeroOut',
] as const;
const RESERVED_MEMBERS = 14;
const POINTER_BYTES = 8;

/**
 * An io_manager of libext2fs that reads and writes through `io`, so that each changed block is
 * seen. `close()` frees it, after the file system is closed.
 */
export class IoManager {
  readonly pointer: Pointer;
  /** Thrown by the last call of `io` that failed: libext2fs carries numbers alone. */
  failure: unknown;
  readonly #io: BlockIo;
  readonly #channel: Pointer;
  readonly #callbacks: Pointer[] = [];
  #blockSize = 1024;

  constructor(io: BlockIo) {
    this.#io = io;
    this.#channel = koffi.alloc(Channel, 1) as Pointer;
    this.pointer = koffi.alloc('uint64_t', MANAGER_MEMBERS.length + RESERVED_MEMBERS) as Pointer;
    const transfer = (act: (block: number, data: Uint8Array) => void): Pointer =>
      this.#register(
        protos.transfer,
        (_channel: Pointer, block: number, count: number, data: Pointer) => {
          const length = count < 0 ? -count : count * this.#blockSize;
          act(Number(block), new Uint8Array(koffi.view(data, length)));
        },
      );
    const read = transfer((block, data) => this.#io.read(block, data));
    const write = transfer((block, data) => this.#io.write(block, data));
    const members: Partial<Record<(typeof MANAGER_MEMBERS)[number], Pointer>> = {
      magic: MANAGER_MAGIC,
      open: this.#register(protos.open, (_name: string, _flags: number, result: Pointer) => {
        koffi.encode(result, 'void *', this.#channel);
      }),
      close: this.#register(protos.close, () => undefined),
      setBlockSize: this.#register(protos.setBlockSize, (_channel: Pointer, size: number) => {
        this.#blockSize = size;
        this.#io.setBlockSize(size);
        koffi.encode(this.#channel, koffi.offsetof(Channel, 'blockSize'), 'int', size);
      }),
      read,
      write,
      flush: this.#register(protos.flush, () => undefined),
      read64: read,
      write64: write,
      zeroOut: this.#register(protos.zeroOut, (_channel: Pointer, block: number, count: number) => {
        const zeros = new Uint8Array(this.#blockSize);
        for (let i = 0; i < Number(count); i++) this.#io.write(Number(block) + i, zeros);
      }),
    };
    MANAGER_MEMBERS.forEach((name, i) => {
      koffi.encode(this.pointer, i * POINTER_BYTES, 'uint64_t', members[name] ?? 0n);
    });
    for (let i = 0; i < RESERVED_MEMBERS; i++) {
      const offset = (MANAGER_MEMBERS.length + i) * POINTER_BYTES;
      koffi.encode(this.pointer, offset, 'uint64_t', 0n);
    }
    koffi.encode(this.#channel, Channel, {
      magic: CHANNEL_MAGIC,
      manager: this.pointer,
      name: null,
      blockSize: this.#blockSize,
      readError: null,
      writeError: null,
      refcount: 1,
      flags: 0,
      reserved: new Array(14).fill(0),
      privateData: null,
      appData: null,
      align: 0,
    });
  }

  close(): void {
    for (const callback of this.#callbacks) koffi.unregister(callback);
    koffi.free(this.#channel);
    koffi.free(this.pointer);
  }

  /** A callback gives 0, or an error number when it throws: nothing may be thrown through C. */
  #register(proto: TypeObject, act: (...args: never[]) => void): Pointer {
    const guarded = (...args: never[]): number => {
      try {
        act(...args);
        return 0;
      } catch (error) {
        this.failure ??= error;
        return SHORT_READ;
      }
    };
    const callback = koffi.register(guarded, koffi.pointer(proto));
    this.#callbacks.push(callback);
    return callback;
  }
}
