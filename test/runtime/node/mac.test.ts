import { describe, expect, it } from 'vitest';
import { NodeMac } from '../../../src/runtime/node/mac.ts';
import { toHex } from '../../../src/util/bytes.ts';

const mac = new NodeMac();
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

describe('NodeMac', () => {
  it('NodeMac.hmacSha256() gives the vectors of RFC 4231, section 4', () => {
    expect(toHex(mac.hmacSha256(new Uint8Array(20).fill(0x0b), text('Hi There')))).toBe(
      'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7',
    );
    const long = text('Test Using Larger Than Block-Size Key - Hash Key First');
    expect(toHex(mac.hmacSha256(new Uint8Array(131).fill(0xaa), long))).toBe(
      '60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54',
    );
  });

  it('NodeMac.equal() compares bytes of any length', () => {
    expect(mac.equal(text('abc'), text('abc'))).toBe(true);
    expect(mac.equal(text('abc'), text('abd'))).toBe(false);
    expect(mac.equal(text('abc'), text('ab'))).toBe(false);
  });
});
