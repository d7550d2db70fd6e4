/** Puts numbered entries into a ring as fast as the ring takes them. */
import { parentPort, workerData } from 'node:worker_threads';
import { RequestRing } from '../../../src/device/fuse/request-ring.ts';

const { shared, count } = workerData as { shared: SharedArrayBuffer; count: number };
const ring = new RequestRing(shared);
for (let i = 0; i < count; i++) {
  if (ring.put({ unique: { low: i, high: 0 }, offset: i, length: 1 })) parentPort?.postMessage(0);
}
