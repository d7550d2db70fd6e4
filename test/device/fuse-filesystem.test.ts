import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { handleRequest, type FuseAction } from '../../src/device/fuse/fuse-filesystem.ts';
import { ERRNO, OP } from '../../src/device/fuse/fuse-protocol.ts';
import { toHex } from '../../src/util/bytes.ts';

const FILE = { sizeBytes: 5 * 2 ** 32 + 4096 };
const UNIQUE = '0200000001000000';

/** A request in the kernel's form: number 2^32 + 2, for this node, with this body in hex. */
function request(opcode: number, nodeId: number, body = ''): Uint8Array {
  const bytes = new Uint8Array(40 + body.length / 2);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, opcode, true);
  view.setUint32(8, 2, true);
  view.setUint32(12, 1, true);
  view.setUint32(16, nodeId, true);
  bytes.set(Buffer.from(body, 'hex'), 40);
  return bytes;
}

function hexOf(action: FuseAction): string {
  return action.kind === 'answer' ? toHex(action.bytes) : action.kind;
}

function errnoOf(action: FuseAction): number | undefined {
  if (action.kind !== 'answer') return undefined;
  return -new DataView(action.bytes.buffer, action.bytes.byteOffset).getInt32(4, true);
}

/** The body of a READ: handle, offset, size, flags, lock owner, flags, padding. */
function readBody(offset: bigint, size: number): string {
  const body = Buffer.alloc(40);
  body.writeBigUInt64LE(offset, 8);
  body.writeUInt32LE(size, 16);
  return body.toString('hex');
}

describe('handleRequest()', () => {
  it('answers INIT with 1 MiB reads, asynchronous, at the lower of both minor versions', () => {
    // The kernel offers 7.45, 128 KiB of readahead and every flag.
    const init = '07000000' + '2d000000' + '00000200' + 'ffffffff' + '00'.repeat(48);
    expect(hexOf(handleRequest(request(OP.init, 0, init), FILE))).toBe(
      '50000000' +
        '00000000' +
        UNIQUE + // 80 bytes, no error
        '07000000' +
        '26000000' +
        '00000200' + // 7.38, 128 KiB
        '01804000' +
        '4000' +
        '3000' + // ASYNC_READ, ASYNC_DIO, MAX_PAGES; 64 background, 48 congested
        '00100000' +
        '01000000' +
        '0001' +
        '0000' + // writes of 4 KiB, 1 ns, 256 pages
        '00'.repeat(32), // prettier-ignore
    );
  });

  it('refuses a kernel whose INIT is of another size', () => {
    const old = '07000000' + '16000000' + '00000200' + 'ffffffff';
    expect(errnoOf(handleRequest(request(OP.init, 0, old), FILE))).toBe(ERRNO.EPROTO);
  });

  it('finds the image in the root folder, and nothing else', () => {
    const name = Buffer.from('image\0').toString('hex');
    expect(hexOf(handleRequest(request(OP.lookup, 1, name), FILE))).toBe(
      '90000000' +
        '00000000' +
        UNIQUE + // 144 bytes
        '0200000000000000' +
        '0000000000000000' + // node 2, generation 0
        'ffffff7f00000000' +
        'ffffff7f00000000' +
        '00'.repeat(8) + // valid forever
        '0200000000000000' +
        '0010000005000000' +
        '0800800200000000' + // inode, size, blocks
        '00'.repeat(36) + // times
        '00810000' +
        '01000000' +
        '00'.repeat(12) +
        '00100000' +
        '00000000', // 0100400, 1 link, 4 KiB
    );
    const other = Buffer.from('images\0').toString('hex');
    expect(errnoOf(handleRequest(request(OP.lookup, 1, other), FILE))).toBe(ERRNO.ENOENT);
    expect(errnoOf(handleRequest(request(OP.lookup, 2, name), FILE))).toBe(ERRNO.ENOENT);
  });

  it('hands on a read at an offset beyond 2^32, cut at the end of the file', () => {
    const at = 5n * 2n ** 32n;
    const unique = { low: 2, high: 1 };
    expect(handleRequest(request(OP.read, 2, readBody(at, 65536)), FILE)).toEqual({
      kind: 'read',
      unique,
      offset: Number(at),
      length: 4096,
    });
    expect(hexOf(handleRequest(request(OP.read, 2, readBody(at + 4096n, 512)), FILE))).toBe(
      '1000000000000000' + UNIQUE,
    );
    expect(hexOf(handleRequest(request(OP.read, 2, readBody(2n ** 64n - 1n, 512)), FILE))).toBe(
      '1000000000000000' + UNIQUE,
    );
  });

  it('refuses a read larger than the agreed size', () => {
    const body = readBody(0n, 2 ** 20 + 1);
    expect(errnoOf(handleRequest(request(OP.read, 2, body), FILE))).toBe(ERRNO.EINVAL);
  });

  it('answers EROFS to every request that would change something', () => {
    const writing = [
      OP.write,
      OP.setattr,
      OP.create,
      OP.unlink,
      OP.mkdir,
      OP.rename2,
      OP.fallocate,
    ];
    for (const opcode of writing) {
      expect(errnoOf(handleRequest(request(opcode, 2, '00'.repeat(64)), FILE))).toBe(ERRNO.EROFS);
    }
    expect(errnoOf(handleRequest(request(OP.open, 2, '0100000000000000'), FILE))).toBe(ERRNO.EROFS);
    expect(errnoOf(handleRequest(request(OP.access, 2, '0200000000000000'), FILE))).toBe(
      ERRNO.EROFS,
    );
  });

  it('lets the kernel keep the pages of an opened file', () => {
    expect(hexOf(handleRequest(request(OP.open, 2, '0000000000000000'), FILE))).toBe(
      '2000000000000000' + UNIQUE + '0000000000000000' + '02000000' + '00000000',
    );
  });

  it('answers ENOSYS to unknown requests, and nothing to FORGET', () => {
    for (const opcode of [40, 44, 46, 50, 99, 4096]) {
      expect(errnoOf(handleRequest(request(opcode, 2, '00'.repeat(64)), FILE))).toBe(ERRNO.ENOSYS);
    }
    expect(handleRequest(request(OP.forget, 2, '0100000000000000'), FILE).kind).toBe('none');
    expect(handleRequest(request(OP.batchForget, 0, '00'.repeat(24)), FILE).kind).toBe('none');
  });

  it('hands on an interrupt of another request', () => {
    expect(handleRequest(request(OP.interrupt, 0, '0400000003000000'), FILE)).toEqual({
      kind: 'interrupt',
      unique: { low: 4, high: 3 },
    });
  });

  it('lists the folder from any entry on, within the given room', () => {
    const list = (from: bigint, room: number): string =>
      hexOf(handleRequest(request(OP.readdir, 1, readBody(from, room)), FILE));
    const dot =
      '0100000000000000' + '0100000000000000' + '01000000' + '04000000' + '2e00000000000000';
    const image =
      '0200000000000000' + '0300000000000000' + '05000000' + '08000000' + '696d616765000000';
    expect(list(0n, 32)).toBe('3000000000000000' + UNIQUE + dot);
    expect(list(2n, 4096)).toBe('3000000000000000' + UNIQUE + image);
    expect(list(3n, 4096)).toBe('1000000000000000' + UNIQUE);
    expect(list(0n, 31)).toBe('1000000000000000' + UNIQUE);
  });

  it('never throws, and gives only reads within the file, for any bytes', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 60 }),
        fc.uint8Array({ maxLength: 120 }),
        fc.boolean(),
        (opcode, bytes, isFramed) => {
          if (isFramed && bytes.length >= 8) {
            new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, bytes.length, true);
            new DataView(bytes.buffer, bytes.byteOffset).setUint32(4, opcode, true);
            if (bytes.length > 16) bytes.fill(0, 17, 24);
          }
          const action = handleRequest(bytes, FILE);
          if (action.kind !== 'read') return;
          expect(action.length).toBeGreaterThan(0);
          expect(action.offset + action.length).toBeLessThanOrEqual(FILE.sizeBytes);
        },
      ),
      { numRuns: 3000 },
    );
  });
});
