import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { OP } from '../../src/device/fuse/fuse-protocol.ts';
import {
  encodeWritten,
  handleWritable,
  type WritableAction,
} from '../../src/device/fuse/writable-filesystem.ts';
import { toHex } from '../../src/util/bytes.ts';

const FILE = { sizeBytes: 2 ** 33 };
const UNIQUE = { low: 2, high: 1 };
const ROOT = 1;
const IMAGE = 2;

/** A request in the kernel's form: number 2^32 + 2, for this node, with this body. */
function request(opcode: number, nodeId: number, body: Uint8Array = new Uint8Array()): Uint8Array {
  const bytes = Buffer.alloc(40 + body.length);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt32LE(opcode, 4);
  bytes.writeUInt32LE(UNIQUE.low, 8);
  bytes.writeUInt32LE(UNIQUE.high, 12);
  bytes.writeUInt32LE(nodeId, 16);
  bytes.set(body, 40);
  return bytes;
}

/** The body of a WRITE: handle, offset, size, flags, lock owner, flags, padding, data. */
function write(offset: number, data: Uint8Array, size = data.length): Uint8Array {
  const body = Buffer.alloc(40 + data.length);
  body.writeBigUInt64LE(BigInt(offset), 8);
  body.writeUInt32LE(size, 16);
  body.set(data, 40);
  return body;
}

/** The body of a FALLOCATE: handle, offset, length, mode, padding. */
function fallocate(offset: number, length: number, mode: number): Uint8Array {
  const body = Buffer.alloc(32);
  body.writeBigUInt64LE(BigInt(offset), 8);
  body.writeBigUInt64LE(BigInt(length), 16);
  body.writeUInt32LE(mode, 24);
  return body;
}

function errnoOf(action: WritableAction): number | undefined {
  if (action.kind !== 'answer') return undefined;
  return Math.abs(new DataView(action.bytes.buffer, action.bytes.byteOffset).getInt32(4, true));
}

describe('handleWritable()', () => {
  it('answers INIT with 1 MiB writes', () => {
    const init = '07000000' + '2d000000' + '00000200' + 'ffffffff' + '00'.repeat(48);
    const action = handleWritable(request(OP.init, 0, Buffer.from(init, 'hex')), FILE);
    expect(action.kind === 'answer' && toHex(action.bytes)).toBe(
      '50000000' +
        '00000000' +
        '0200000001000000' +
        '07000000' +
        '26000000' +
        '00000200' +
        '21804000' + // BIG_WRITES too
        '4000' +
        '3000' +
        '00001000' +
        '01000000' +
        '0001' +
        '0000' +
        '00'.repeat(32),
    );
  });

  it('hands on writes of whole sectors in the file', () => {
    const data = new Uint8Array(1024).fill(7);
    const at = 2 ** 32 + 512;
    const action = handleWritable(request(OP.write, IMAGE, write(at, data)), FILE);
    expect(action).toEqual({ kind: 'write', unique: UNIQUE, offset: at, bytes: data });
    expect(toHex(encodeWritten(UNIQUE, 1024))).toBe(
      '18000000' + '00000000' + '0200000001000000' + '00040000' + '00000000',
    );
  });

  it.each([
    ['a part of a sector', write(0, new Uint8Array(100)), 22],
    ['an offset in a sector', write(100, new Uint8Array(512)), 22],
    ['nothing', write(0, new Uint8Array()), 22],
    ['a size beyond the data', write(0, new Uint8Array(512), 1024), 22],
    ['the end of the file', write(FILE.sizeBytes - 512, new Uint8Array(1024)), 28],
    ['the end of all numbers', write(0, new Uint8Array(512)).fill(0xff, 8, 16), 28],
  ])('refuses to write %s', (_, body, errno) => {
    expect(errnoOf(handleWritable(request(OP.write, IMAGE, body), FILE))).toBe(errno);
  });

  it('takes holes and zeros for zeros, and refuses other allocations', () => {
    for (const mode of [2 | 1, 16 | 1, 16]) {
      const body = fallocate(4096, 8192, mode);
      expect(handleWritable(request(OP.fallocate, IMAGE, body), FILE)).toEqual({
        kind: 'zero',
        unique: UNIQUE,
        offset: 4096,
        length: 8192,
      });
    }
    for (const mode of [0, 1, 8, 32]) {
      const body = fallocate(4096, 8192, mode);
      expect(errnoOf(handleWritable(request(OP.fallocate, IMAGE, body), FILE))).toBe(95);
    }
    const late = fallocate(FILE.sizeBytes, 4096, 3);
    expect(errnoOf(handleWritable(request(OP.fallocate, IMAGE, late), FILE))).toBe(28);
  });

  it('opens for writing, and hands on syncs', () => {
    const open = Buffer.alloc(8);
    open.writeUInt32LE(2, 0); // O_RDWR
    expect(errnoOf(handleWritable(request(OP.open, IMAGE, open), FILE))).toBe(0);
    for (const opcode of [OP.fsync, OP.flush]) {
      const action = handleWritable(request(opcode, IMAGE, new Uint8Array(24)), FILE);
      expect(action).toEqual({ kind: 'flush', unique: UNIQUE });
    }
    expect(errnoOf(handleWritable(request(OP.create, ROOT, new Uint8Array(64)), FILE))).toBe(30);
    expect(errnoOf(handleWritable(request(OP.setattr, IMAGE, new Uint8Array(88)), FILE))).toBe(30);
  });

  it('never throws, and asks the disk for ranges of the file alone', () => {
    fc.assert(
      fc.property(
        fc.nat(60),
        fc.nat(3),
        fc.uint8Array({ maxLength: 1200 }),
        fc.boolean(),
        (opcode, node, body, isCut) => {
          const whole = request(opcode, node, body);
          const action = handleWritable(isCut ? whole.subarray(0, 30) : whole, FILE);
          if (!('offset' in action)) return;
          const length = action.kind === 'write' ? action.bytes.length : action.length;
          expect(action.offset + length).toBeLessThanOrEqual(FILE.sizeBytes);
          expect(length).toBeGreaterThan(0);
        },
      ),
      { numRuns: 2000 },
    );
  });
});
