import { readSync } from 'node:fs';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { defined } from '../../util/assert.ts';
import { answerNow } from './answer-now.ts';
import { fileRead, handleRequest } from './fuse-filesystem.ts';
import { REQUEST_BYTES_MAX } from './fuse-protocol.ts';
import { HeldReads } from './held-reads.ts';
import { endLostRequests } from './lost-requests.ts';
import { RequestRing } from './request-ring.ts';
import type { ThreadOrder } from '../store-reader/thread-image.ts';
import { TouchedPages } from '../touched-pages.ts';
import type { FuseWorkerInit, FuseWorkerMessage } from './fuse-server.ts';

const port = defined(parentPort, 'fuse-worker runs as a worker thread');
const post = (message: FuseWorkerMessage): void => port.postMessage(message);

/**
 * Loop of the thread that reads the kernel's requests. Its blocking reads cost a third of reads
 * through Node's thread pool. It answers reads of what the store's files hold, and all requests
 * that are no reads, by itself, whatever the serving thread does. It puts the other reads into the
 * ring. Ends when the filesystem is unmounted.
 */
function serve(init: FuseWorkerInit): void {
  const ring = new RequestRing(init.ring);
  const messages = new Int32Array(init.messages);
  const buffer = new Uint8Array(REQUEST_BYTES_MAX);
  const view = new DataView(buffer.buffer);
  const file = { sizeBytes: init.sizeBytes };
  const touched = new TouchedPages(init.sizeBytes, init.touched);
  let held: HeldReads | undefined;
  let { endsLost } = init;
  let messageCount = 0;
  if (init.orderWaitMs > 0) Atomics.wait(messages, 0, 0, init.orderWaitMs);
  const takeOrder = (): void => {
    if (messageCount === Atomics.load(messages, 0)) return;
    messageCount++;
    const order = receiveMessageOnPort(port)?.message as ThreadOrder | undefined;
    if (order === undefined) return;
    held = new HeldReads(order, { fd: init.fd, onGaveUp: gaveUp });
    post({ kind: 'holds' });
  };
  takeOrder();
  for (;;) {
    const bytes = readRequest(init.fd, buffer);
    if (bytes === 'again') continue;
    if (typeof bytes === 'object') return post({ kind: 'ended', reason: bytes.reason });
    if (endsLost) {
      endsLost = false;
      endLostRequests(init.fd, buffer.subarray(0, bytes));
    }
    takeOrder();
    const read = fileRead(view, bytes, file);
    const action = read ?? handleRequest(buffer.subarray(0, bytes), file);
    if (action.kind === 'answer') answerNow(init.fd, action.bytes);
    else if (action.kind === 'read') {
      touched.mark(action.offset, action.length);
      if (held?.answer(action) !== true && ring.put(action)) post({ kind: 'wake' });
    } else if (action.kind === 'interrupt') {
      if (ring.put({ unique: action.unique, offset: 0, length: 0 })) post({ kind: 'wake' });
    }
  }
}

function gaveUp(reason: string): void {
  post({ kind: 'gave-up', reason });
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

serve(workerData as FuseWorkerInit);
