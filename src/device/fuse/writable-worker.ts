import { readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { defined } from '../../util/assert.ts';
import { answerNow } from './answer-now.ts';
import { endLostRequests } from './lost-requests.ts';
import { handleWritable, WRITABLE_REQUEST_BYTES_MAX } from './writable-filesystem.ts';
import type { WritableCall, WritableWorkerInit } from './writable-server.ts';

/**
 * Loop of the thread that reads the kernel's requests to a writable file. It answers all but those
 * for the content by itself, so that the file can be opened while the serving thread is busy. Ends
 * when the filesystem is unmounted.
 */
function serve(init: WritableWorkerInit, post: (call: WritableCall) => void): void {
  const buffer = new Uint8Array(WRITABLE_REQUEST_BYTES_MAX);
  let { endsLost } = init;
  for (;;) {
    let count: number;
    try {
      count = readSync(init.fd, buffer);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // ENOENT: the kernel withdrew the request during the read.
      if (code === 'EINTR' || code === 'EAGAIN' || code === 'ENOENT') continue;
      return;
    }
    if (endsLost) {
      endsLost = false;
      endLostRequests(init.fd, buffer.subarray(0, count));
    }
    const action = handleWritable(buffer.subarray(0, count), { sizeBytes: init.sizeBytes });
    if (action.kind === 'answer') answerNow(init.fd, action.bytes);
    else if (action.kind === 'write') post({ ...action, bytes: action.bytes.slice() });
    else if (action.kind !== 'none') post(action);
  }
}

const port = defined(parentPort, 'writable-worker runs as a worker thread');
serve(workerData as WritableWorkerInit, (call) =>
  port.postMessage(call, call.kind === 'write' ? [call.bytes.buffer as ArrayBuffer] : []),
);
