import { expect, it } from 'vitest';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { shippedOrders } from '../../src/sim/shipped-image.ts';
import { makeImage, makeTrace } from '../../src/sim/workload.ts';

it('shippedOrders() names every touched block, in the order of first touch', async () => {
  const image = makeImage();
  const trace = makeTrace(image);
  const orders = await shippedOrders({ codec: new NodeCodec() }, image, trace);
  const named = orders.flatMap(({ digest, indices }) => indices.map((index) => [digest, index]));
  expect(named).toEqual(trace.touched.map(({ blob, index }) => [blob.digest, index]));
  expect(trace.shipped.sizeBytes).toBe(10_240);
});
