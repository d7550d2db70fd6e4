import { readSync, writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { defined } from '../../util/assert.ts';
import { handleRequest } from './fuse-filesystem.ts';
import { REQUEST_BYTES_MAX } from './fuse-protocol.ts';
import { endLostRequests } from './lost-requests.ts';
import { RequestRing } from './request-ring.ts';
import type { FuseWorkerInit, FuseWorkerMessage } from './fuse-server.ts';

/**
 * Loop of the thread that reads the kernel's requests. Its blocking reads cost a third of reads
 * through Node's thread pool. It puts reads of the file into the ring and answers all other
 * requests by itself, so that the file can be opened and looked up even while the serving thread is
 * busy. Ends when the filesystem is unmounted.
 */
function serve(init: FuseWorkerInit, post: (message: FuseWorkerMessage) => void): void {
  const ring = new RequestRing(init.ring);
  const buffer = new Uint8Array(REQUEST_BYTES_MAX);
  let { endsLost } = init;
  for (;;) {
    const read = readRequest(init.fd, buffer);
    if (read === 'again') continue;
    if (typeof read === 'object') return post({ kind: 'ended', reason: read.reason });
    if (endsLost) {
      endsLost = false;
      endLostRequests(init.fd, buffer.subarray(0, read));
    }
    const action = handleRequest(buffer.subarray(0, read), { sizeBytes: init.sizeBytes });
    if (action.kind === 'answer') answerNow(init.fd, action.bytes);
    else if (action.kind === 'read') {
      if (ring.put(action)) post({ kind: 'wake' });
    } else if (action.kind === 'interrupt') {
      if (ring.put({ unique: action.unique, offset: 0, length: 0 })) post({ kind: 'wake' });
    }
  }
}

function readRequest(fd: number, buffer: Uint8Array): number | 'again' | { reason: string } {
  try {
    return readSync(fd, buffer);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // ENOENT: the kernel withdrew the request during the read.
    if (code === 'EINTR' || code === 'EAGAIN' || code === 'ENOENT') return 'again';
    return { reason: code ?? String(error) };
  }
}

/**
 * Answers a request. A failure is normal when the request was interrupted or aborted, or the
 * filesystem unmounted.
 */
function answerNow(fd: number, bytes: Uint8Array): void {
  try {
    writeSync(fd, bytes);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENODEV' && code !== 'ECONNABORTED') throw error;
  }
}

const port = defined(parentPort, 'fuse-worker runs as a worker thread');
serve(workerData as FuseWorkerInit, (message) => port.postMessage(message));
