import { createHash } from 'node:crypto';
import { parentPort } from 'node:worker_threads';
import { defined } from '../../util/assert.ts';

/** What the thread is told: bytes to hash, or to give the digest. Each message has one answer. */
export type HashWorkerMessage = Uint8Array | 'digest';

const port = defined(parentPort, 'hash-worker runs as a worker thread');
const hash = createHash('sha256');
port.on('message', (message: HashWorkerMessage) => {
  if (message === 'digest') {
    port.postMessage(new Uint8Array(hash.digest()));
  } else {
    hash.update(message);
    port.postMessage('hashed');
  }
});
