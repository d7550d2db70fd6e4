import { expect, it, onTestFinished } from 'vitest';
import type { BlobRef } from '../../src/image/block.ts';
import { tarOf } from '../../src/image/tar.ts';
import { encodeTrace } from '../../src/image/trace.ts';
import { ImageChecks } from '../../src/device/image-checks.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { codec, makeLayer } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';

const { signal } = new AbortController();

/** Checks of blobs that are in memory; counts the images that are open. */
function make(blobs: readonly Uint8Array[]) {
  const byDigest = new Map(blobs.map((bytes) => [digestOf(bytes), bytes] as const));
  const opens = { count: 0, asked: 0 };
  const open = async () => {
    opens.count++;
    opens.asked++;
    return { layers: [], manifest: undefined, close: () => void opens.count-- };
  };
  const read = async (blob: BlobRef, offset: number, length: number): Promise<Uint8Array> => {
    const bytes = byDigest.get(blob.digest);
    if (bytes === undefined) throw new Error('no such blob');
    return bytes.subarray(offset, offset + length);
  };
  const clock = new ManualClock();
  const checks = new ImageChecks({ open, images: { open }, local: { read }, clock });
  onTestFinished(() => {
    checks.stop();
    expect(clock.delays).toEqual([]);
  });
  return { checks, opens };
}

const refOf = (bytes: Uint8Array): BlobRef => ({
  digest: digestOf(bytes),
  sizeBytes: bytes.length,
});
const reference = 'reg.example/app:1';

it('ImageChecks.checkTrace() takes a trace, and no layer of a device', async () => {
  const bytes = encodeTrace([], codec);
  const trace = tarOf([{ name: 'trace', bytes }]).bytes;
  const layer = await makeLayer({ virtualSizeBytes: 4096, ranges: [] });
  const { checks, opens } = make([trace, layer]);
  await checks.checkTrace({ reference, ...refOf(trace) }, signal);
  await expect(checks.checkTrace({ reference, ...refOf(layer) }, signal)).rejects.toMatchObject({
    code: 'damaged',
  });
  const gone = { reference, ...refOf(bytes) };
  await expect(checks.checkTrace(gone, signal)).rejects.toThrow('no such blob');
  expect(opens).toEqual({ count: 0, asked: 3 });
});

it('ImageChecks.check() remembers layers by their sizes', async () => {
  const layer = await makeLayer({ virtualSizeBytes: 4096, ranges: [] });
  const { checks, opens } = make([layer]);
  const chainOf = (...layers: readonly BlobRef[]) => ({
    ...{ chainId: layers.at(-1)?.digest ?? '', reference, layers },
  });
  const chain = chainOf(refOf(layer));
  await checks.check(chain, signal);
  await checks.check(chain, signal);
  expect(opens).toEqual({ count: 1, asked: 1 });
  const lying = chainOf({ ...refOf(layer), sizeBytes: layer.length + 1 });
  await checks.check(lying, signal);
  expect(opens).toEqual({ count: 1, asked: 2 });
});
