import { expect, it } from 'vitest';
import { collectGarbage } from '../../../src/runtime/node/heap.ts';

/** An object that only the caller holds, and a WeakRef that shows whether it still exists. */
function watched(): { object: object; ref: WeakRef<object> } {
  const object = { bytes: new Uint8Array(1000) };
  return { object, ref: new WeakRef(object) };
}

it('collectGarbage() frees an object that nothing holds, and no other', async () => {
  const { ref } = watched();
  const held = watched();
  // A WeakRef holds its object until the job that made it has ended.
  await new Promise((resolve) => setImmediate(resolve));
  collectGarbage();
  expect(ref.deref()).toBeUndefined();
  expect(held.ref.deref()).toBe(held.object);
});
