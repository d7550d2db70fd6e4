import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { kernelNbdFault } from '../../../src/device/nbd/kernel.ts';
import { decodeAnswers, encodeRequest } from '../../../src/device/nbd/netlink.ts';
import { fromHex, toHex } from '../../../src/util/bytes.ts';

const bytesOf = (hex: string): Uint8Array => fromHex(hex.replaceAll(' ', '')) ?? new Uint8Array();

/** Bytes by hand from the kernel's netlink.h, genetlink.h and nbd-netlink.h. */
describe('netlink', () => {
  it('asks for a family by name, padded', () => {
    expect(toHex(encodeRequest(16, 3, 2, [[2, { text: 'nbd' }]]))).toBe(
      '1c000000' +
        '1000' +
        '0500' +
        '01000000' +
        '00000000' +
        '03020000' +
        '0800' +
        '0200' +
        '6e626400',
    );
    expect(toHex(encodeRequest(16, 3, 2, [[2, { text: 'nbd1' }]])).slice(40)).toBe(
      '0900' + '0200' + '6e62643100' + '000000',
    );
  });

  it('attaches a device with a size and nested sockets', () => {
    const request = encodeRequest(27, 1, 1, [
      [1, { u32: 7 }],
      [2, { u64: 2 ** 33 + 512 }],
      [7, { nested: [[1, { nested: [[1, { u32: 42 }]] }]] }],
    ]);
    expect(toHex(request)).toBe(
      '38000000' +
        '1b00' +
        '0500' +
        '01000000' +
        '00000000' +
        '01010000' +
        '0800' +
        '0100' +
        '07000000' +
        '0c00' +
        '0200' +
        '0002000002000000' +
        '1000' +
        '0780' +
        '0c00' +
        '0180' +
        '0800' +
        '0100' +
        '2a000000',
    );
  });

  it('reads results and replies, several in one datagram', () => {
    const failed = bytesOf('24000000 0200 0000 01000000 00000000 feffffff' + '00'.repeat(16));
    expect(decodeAnswers(failed)).toEqual([{ kind: 'result', errno: 2 }]);
    const both = bytesOf(
      '24000000 1b00 0000 01000000 00000000 01010000 0800 0100 05000000 0600 0200 abcd 0000' +
        '14000000 0200 0001 01000000 00000000 00000000',
    );
    expect(decodeAnswers(both)).toEqual([
      {
        kind: 'reply',
        attributes: new Map([
          [1, bytesOf('05000000')],
          [2, bytesOf('abcd')],
        ]),
      },
      { kind: 'result', errno: 0 },
    ]);
  });

  it('never throws for any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), (bytes, length) => {
        if (bytes.length >= 4) bytes.set([length, 0, 0, 0]);
        decodeAnswers(bytes);
      }),
    );
  });
});

describe('kernelNbdFault()', () => {
  it('asks the kernel of this host, which has the driver or names it as missing', () => {
    expect(kernelNbdFault() ?? 'modprobe nbd').toContain('modprobe nbd');
  });
});
