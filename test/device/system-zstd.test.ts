import fc from 'fast-check';
import { expect, it } from 'vitest';
import { systemZstd } from '../../src/device/system-zstd.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { bytesEqual } from '../../src/util/bytes.ts';
import { sampleBytes } from '../kit/layers.ts';
import { describeWith } from '../kit/requires.ts';

const hasLibrary = (): string | undefined =>
  systemZstd() === undefined ? 'no libzstd.so.1' : undefined;

describeWith('systemZstd()', [hasLibrary], () => {
  const codec = new NodeCodec({ zstd: systemZstd });
  const plain = new NodeCodec();

  it('gives back what was encoded, and of damaged frames nothing that Node does not', () => {
    const samples = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 5000 }),
      fc.nat(65_536).map((length) => sampleBytes(length + 1, length)),
    );
    const flip = fc.option(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })));
    fc.assert(
      fc.property(samples, flip, fc.integer({ min: -1, max: 1 }), (data, change, extra) => {
        const source = Uint8Array.from(plain.zstdEncode(data));
        if (change !== null) source[change[0] % source.length]! ^= change[1];
        const attempt = (by: NodeCodec): Uint8Array | 'refused' => {
          const target = new Uint8Array(Math.max(1, data.length + extra));
          try {
            by.zstdDecode(source, target);
            return target;
          } catch {
            return 'refused';
          }
        };
        const [found, expected] = [attempt(codec), attempt(plain)];
        if (change === null && extra === 0)
          expect(bytesEqual(found as Uint8Array, data)).toBe(true);
        // Node takes some frames whose end is damaged.
        if (found === 'refused') return;
        expect(bytesEqual(expected as Uint8Array, found)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});
