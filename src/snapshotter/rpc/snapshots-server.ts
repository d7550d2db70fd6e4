import { once } from 'node:events';
import { createServer, type Server as SocketServer } from 'node:net';
import { dirname } from 'node:path';
import {
  Server,
  ServerCredentials,
  status,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServerWritableStream,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { makeFolders } from '../../runtime/node/folders.ts';
import { NO_KEEPER, type DescriptorKeeper } from '../../device/keeper/kept-descriptors.ts';
import { KeptListener } from '../../device/keeper/kept-listener.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import { CodedError, errorText } from '../../util/errors.ts';
import { snapshotterMetrics, type OPERATIONS, type SnapshotterMetrics } from '../metrics.ts';
import type { Snapshots } from '../snapshots.ts';
import {
  infoOf,
  snapshotsService,
  type CommitRequest,
  type KeyRequest,
  type ListRequest,
  type PrepareRequest,
  type UpdateRequest,
} from './messages.ts';
import { failureOf, type RpcFailure } from './status.ts';

/** Snapshots in one message of a list: some hundred KB, of the 4 MiB that clients take. */
const LIST_BATCH = 100;

/** Largest request, in bytes: labels have 4 KiB each. */
const REQUEST_BYTES_MAX = 4 * 1024 * 1024;

/** Calls that containerd has open at a time on one connection. */
const CALLS_MAX = 1024;

/** Time for calls to end by themselves at a stop, in milliseconds. */
const STOP_MS_MAX = 2_000;

/** The socket cannot be listened on. */
class SocketError extends CodedError<{ readonly code: 'listen'; readonly path: string }> {}

type Operation = (typeof OPERATIONS)[number];

/**
 * Serves snapshots to containerd over gRPC on a Unix socket that its own user alone may open.
 *
 * Life: `start()`; calls wait until the snapshots are ready -> `stop()`, which ends all calls. With
 * a keeper, containerd's connections wait for the next process after `stop({ handsOver: true })`,
 * and after a kill.
 */
export class SnapshotsServer {
  readonly #snapshots: Snapshots;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #metrics: SnapshotterMetrics;
  readonly #path: string;
  readonly #listener: KeptListener;
  readonly #ready: Promise<void>;
  #running: { readonly grpc: Server; readonly sockets: SocketServer } | undefined;

  /**
   * `socketPath`: absolute. A socket that is there is replaced. `ready`: calls wait for it;
   * containerd waits for an answer longer than for a connection.
   */
  constructor(
    components: {
      snapshots: Snapshots;
      clock: Clock;
      logger: Logger;
      metrics: Metrics;
      keeper?: DescriptorKeeper;
    },
    init: { socketPath: string; ready?: Promise<void> },
  ) {
    this.#ready = init.ready ?? Promise.resolve();
    const { keeper = NO_KEEPER } = components;
    this.#listener = new KeptListener({ keeper }, { path: init.socketPath });
    this.#snapshots = components.snapshots;
    this.#clock = components.clock;
    this.#logger = components.logger;
    this.#metrics = snapshotterMetrics(components.metrics);
    this.#path = init.socketPath;
  }

  /** Rejects when it cannot listen. */
  async start(): Promise<void> {
    const server = new Server({
      'grpc.max_receive_message_length': REQUEST_BYTES_MAX,
      'grpc.max_concurrent_streams': CALLS_MAX,
    });
    server.addService(snapshotsService(), this.#methods());
    const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
    const sockets = createServer((socket) => injector.injectConnection(socket));
    try {
      makeFolders(dirname(this.#path), 0o700);
      sockets.listen({ fd: await this.#listener.open() });
      await once(sockets, 'listening');
    } catch (cause) {
      server.forceShutdown();
      const what = `cannot listen on ${this.#path} for containerd: ${errorText(cause)}`;
      throw new SocketError(what, { code: 'listen', path: this.#path }, { cause });
    }
    this.#running = { grpc: server, sockets };
  }

  /** `handsOver`: another process is about to serve containerd's next connections. */
  async stop({ handsOver = false } = {}): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#running = undefined;
    if (!handsOver) this.#listener.remove();
    running.sockets.close();
    const timer = this.#clock.setTimer(STOP_MS_MAX, () => running.grpc.forceShutdown());
    await new Promise<void>((resolve) => running.grpc.tryShutdown(() => resolve()));
    timer.cancel();
  }

  #methods(): UntypedServiceImplementation {
    const snapshots = this.#snapshots;
    const mountsOf = async (mounts: ReturnType<Snapshots['mounts']>) => ({ mounts: await mounts });
    return {
      Prepare: this.#unary('prepare', (request: PrepareRequest, signal) =>
        mountsOf(snapshots.prepare(request, signal)),
      ),
      View: this.#unary('view', (request: PrepareRequest, signal) =>
        mountsOf(snapshots.view(request, signal)),
      ),
      Mounts: this.#unary('mounts', ({ key }: KeyRequest, signal) =>
        mountsOf(snapshots.mounts(key, signal)),
      ),
      Commit: this.#unary('commit', async (request: CommitRequest) => {
        await snapshots.commit(request);
        return {};
      }),
      Remove: this.#unary('remove', async ({ key }: KeyRequest) => {
        await snapshots.remove(key);
        return {};
      }),
      Stat: this.#unary('stat', async ({ key }: KeyRequest) => ({
        info: infoOf(snapshots.stat(key)),
      })),
      Update: this.#unary('update', async ({ info, update_mask }: UpdateRequest) => {
        const { name = '', labels = {} } = info ?? {};
        const paths = update_mask?.paths ?? [];
        return { info: infoOf(await snapshots.update({ name, labels, paths })) };
      }),
      Usage: this.#unary('usage', async ({ key }: KeyRequest) => {
        const { sizeBytes: size, inodes } = await snapshots.usage(key);
        return { size, inodes };
      }),
      Cleanup: this.#unary('cleanup', async () => {
        await snapshots.cleanup();
        return {};
      }),
      List: (call: ServerWritableStream<ListRequest, object>) => void this.#list(call),
    };
  }

  #unary<Q, A extends object>(
    operation: Operation,
    answer: (request: Q, signal: AbortSignal) => Promise<A>,
  ) {
    return (call: ServerUnaryCall<Q, A>, callback: sendUnaryData<A>): void => {
      const cancelling = new AbortController();
      call.once('cancelled', () => cancelling.abort());
      void this.#measured(operation, () => answer(call.request, cancelling.signal)).then((result) =>
        callback('failure' in result ? result.failure : null, result.answer),
      );
    };
  }

  /** The outcome of an operation, counted. Never rejects. */
  async #measured<A>(
    operation: Operation,
    work: () => Promise<A>,
  ): Promise<{ readonly answer?: A; readonly failure?: RpcFailure }> {
    const startMs = this.#clock.nowMs();
    let code = status.OK;
    try {
      await this.#ready;
      return { answer: await work() };
    } catch (error) {
      const failure = failureOf(error);
      ({ code } = failure);
      this.#note(operation, failure, error);
      return { failure };
    } finally {
      this.#metrics.operations.inc({ operation, code: status[code] });
      this.#metrics.seconds.observe({ operation }, (this.#clock.nowMs() - startMs) / 1000);
    }
  }

  #note(operation: Operation, { code, details, isBug }: RpcFailure, error: unknown): void {
    if (isBug) this.#logger.error({ operation, error }, 'a call of containerd failed (bug)');
    // Usual answers to containerd's questions.
    else if (code === status.NOT_FOUND || code === status.ALREADY_EXISTS) {
      this.#logger.debug({ operation, error: details }, 'a call of containerd was refused');
    } else {
      const fields = { operation, code: status[code], error: details };
      this.#logger.warn(fields, 'a call of containerd failed');
    }
  }

  async #list(call: ServerWritableStream<ListRequest, object>): Promise<void> {
    const { failure } = await this.#measured('list', async () => {
      const found = this.#snapshots.list(call.request.filters);
      for (let at = 0; at < found.length && !call.cancelled; at += LIST_BATCH) {
        const info = found.slice(at, at + LIST_BATCH).map(infoOf);
        if (!call.write({ info })) await drained(call);
      }
    });
    if (failure === undefined) call.end();
    else call.emit('error', failure);
  }
}

/** Resolves when a call takes more, or has ended. */
function drained(call: ServerWritableStream<unknown, object>): Promise<void> {
  return new Promise((resolve) => {
    const events = ['drain', 'cancelled', 'close'];
    const end = (): void => {
      for (const event of events) call.off(event, end);
      resolve();
    };
    for (const event of events) call.on(event, end);
  });
}
