import { parentPort, workerData } from 'node:worker_threads';
import { silentLogger } from '../../runtime/logger.ts';
import { silentMetrics } from '../../runtime/metrics.ts';
import { SystemClock } from '../../runtime/node/clock.ts';
import { defined } from '../../util/assert.ts';
import type { ReadOnlyDisk } from '../disk.ts';
import { deviceMetrics } from '../metrics.ts';
import { ThreadImage } from '../store-reader/thread-image.ts';
import { TouchedPages } from '../touched-pages.ts';
import { NbdServer } from './nbd-server.ts';
import type { NbdWorkerInit, NbdWorkerMessage, NbdWorkerOrder } from './nbd-mount.ts';

const port = defined(parentPort, 'nbd-worker runs as a worker thread');
const init = workerData as NbdWorkerInit;
const post = (message: NbdWorkerMessage): void => port.postMessage(message);

/**
 * The disk of a mount in its thread, which reads by itself what the store's files hold, and asks
 * the thread that made it for the rest.
 */
class ThreadDisk implements ReadOnlyDisk {
  readonly sizeBytes = init.sizeBytes;
  held: ThreadImage | undefined;
  readonly #touched = new TouchedPages(init.sizeBytes, init.touched);
  readonly #asked = new Map<number, { target: Uint8Array; end: (error?: string) => void }>();
  #count = 0;

  readSync(target: Uint8Array, offset: number): boolean {
    this.#touched.mark(offset, target.length);
    return this.held?.readInto(target, offset) ?? false;
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    // What is long comes here first.
    if (this.readSync(target, offset)) return;
    const id = this.#count++;
    const error = await new Promise<string | undefined>((end) => {
      this.#asked.set(id, { target, end });
      post({ kind: 'read', id, offset, length: target.length });
    });
    if (error !== undefined) throw new Error(error);
  }

  answered({ id, bytes, error }: NbdWorkerOrder & { readonly kind: 'answer' }): void {
    const asked = defined(this.#asked.get(id), 'what is answered was asked');
    this.#asked.delete(id);
    if (bytes !== undefined) asked.target.set(bytes);
    asked.end(error);
  }
}

const disk = new ThreadDisk();
// Reads are counted and logged by the thread that made this one.
const server = new NbdServer({
  clock: new SystemClock(),
  logger: silentLogger,
  metrics: deviceMetrics(silentMetrics),
});
server.export('', disk);

port.on('message', (order: NbdWorkerOrder) => {
  if (order.kind === 'answer') disk.answered(order);
  else if (order.kind === 'serve') {
    const { id } = order;
    void server.adopt(order.fd, '').closed.then(() => post({ kind: 'closed', id }));
  } else {
    const onGaveUp = (reason: string): void => post({ kind: 'gave-up', reason });
    disk.held = new ThreadImage(order.order, { onGaveUp });
    post({ kind: 'holds' });
  }
});
