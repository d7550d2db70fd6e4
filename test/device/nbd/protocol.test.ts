import { describe, expect, it } from 'vitest';
import {
  decodeCommand,
  decodeOptionHeader,
  encodeBlockStatus,
  encodeErrorChunk,
  encodeErrorOffsetChunk,
  encodeGreeting,
  encodeNoneChunk,
  encodeOptionReply,
  writeDataChunk,
  writeSimpleReply,
} from '../../../src/device/nbd/protocol.ts';
import { fromHex, toHex } from '../../../src/util/bytes.ts';

const cookie = { high: 0x01020304, low: 0xfffefdfc };
const bytesOf = (hex: string): Uint8Array => fromHex(hex.replaceAll(' ', '')) ?? new Uint8Array();

function hexOf(length: number, write: (target: Uint8Array) => void): string {
  const target = new Uint8Array(length);
  write(target);
  return toHex(target);
}

/** Bytes as the protocol's description has them, written by hand. */
describe('the NBD protocol', () => {
  it('has the greeting of fixed newstyle, without the zeroes', () => {
    expect(toHex(encodeGreeting())).toBe('4e42444d41474943' + '49484156454f5054' + '0003');
  });

  it('has options and their replies', () => {
    expect(decodeOptionHeader(bytesOf('49484156454f5054 00000007 80000001'))).toEqual({
      option: 7,
      length: 0x80000001,
    });
    expect(decodeOptionHeader(bytesOf('49484156454f5055 00000007 00000001'))).toBeUndefined();
    expect(toHex(encodeOptionReply(7, 0x80000006, bytesOf('6e6f')))).toBe(
      '0003e889045565a9' + '00000007' + '80000006' + '00000002' + '6e6f',
    );
  });

  it('has commands', () => {
    const bytes = bytesOf('ff 25609513 0004 0007 01020304fffefdfc 0000000100000200 00100000 ff');
    expect(decodeCommand(bytes, 1)).toEqual({
      flags: 4,
      type: 7,
      cookie,
      offset: 2 ** 32 + 512,
      length: 2 ** 20,
    });
    expect(decodeCommand(bytes, 0)).toBeUndefined();
  });

  it('has simple replies', () => {
    expect(hexOf(16, (target) => writeSimpleReply(target, cookie, 5))).toBe(
      '67446698' + '00000005' + '01020304fffefdfc',
    );
  });

  it('has chunks of data, the last one of a reply marked', () => {
    const part = { offset: 2 ** 33 + 1, length: 512 };
    expect(hexOf(28, (target) => writeDataChunk(target, cookie, { ...part, isLast: false }))).toBe(
      '668e33ef' + '0000' + '0001' + '01020304fffefdfc' + '00000208' + '0000000200000001',
    );
    expect(hexOf(28, (target) => writeDataChunk(target, cookie, { ...part, isLast: true }))).toBe(
      '668e33ef' + '0001' + '0001' + '01020304fffefdfc' + '00000208' + '0000000200000001',
    );
  });

  it('has chunks for the end of a reply, and for errors', () => {
    expect(toHex(encodeNoneChunk(cookie))).toBe(
      '668e33ef' + '0001' + '0000' + '01020304fffefdfc' + '00000000',
    );
    expect(toHex(encodeErrorChunk(cookie, 22, 'no'))).toBe(
      '668e33ef' + '0001' + '8001' + '01020304fffefdfc' + '00000008' + '00000016' + '0002' + '6e6f',
    );
    expect(toHex(encodeErrorOffsetChunk(cookie, 5, 4096))).toBe(
      '668e33ef0000800201020304fffefdfc' + '0000000e' + '00000005' + '0000' + '0000000000001000',
    );
  });

  it('cuts the text of an error to what the protocol allows', () => {
    expect(encodeErrorChunk(cookie, 5, 'x'.repeat(10_000)).length).toBe(20 + 6 + 4096);
  });

  it('has extents', () => {
    const extents = [
      { length: 4096, isZero: false },
      { length: 0x80000000, isZero: true },
    ];
    expect(toHex(encodeBlockStatus(cookie, extents))).toBe(
      '668e33ef0001000501020304fffefdfc' +
        '00000014' +
        '00000001' +
        '0000100000000000' +
        '8000000000000003',
    );
  });
});
