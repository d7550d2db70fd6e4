import { once } from 'node:events';
import { createServer, Socket, type Server } from 'node:net';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { assert, defined } from '../../util/assert.ts';
import { errorText } from '../../util/errors.ts';
import type { ReadOnlyDisk } from '../disk.ts';
import { DeviceError } from '../errors.ts';
import type { DeviceMetrics } from '../metrics.ts';
import { NbdConnection, type NbdExport } from './connection.ts';
import { STRING_BYTES_MAX } from './protocol.ts';
import { listenUnix } from '../sockets.ts';

/** Most connections at a time: nbdcopy opens four, the kernel one. More are hung up on. */
const CONNECTIONS_MAX = 256;

/** Most devices: as many as a host mounts. */
const EXPORTS_MAX = 256;

/**
 * Serves disks, each under a name, to NBD clients on a Unix socket.
 *
 * Life: constructed -> `listen()`, and `export()` at any time -> `close()`. A client that names no
 * device gets the one with the empty name, or else the only one. When the server closes or dies,
 * clients lose their connection without replies to commands in flight; those that reconnect ask
 * again. A descriptor that another process keeps open collects them in between: the next server
 * listens on it.
 */
export class NbdServer {
  readonly #parts: { clock: Clock; logger: Logger; metrics: DeviceMetrics };
  readonly #exports = new Map<string, NbdExport>();
  readonly #connections = new Set<NbdConnection>();
  #server: Server | undefined;
  #fd: number | undefined;

  constructor(components: { clock: Clock; logger: Logger; metrics: DeviceMetrics }) {
    this.#parts = components;
  }

  /** The descriptor that listens, for a process that keeps it open; undefined before `listen()`. */
  get listeningFd(): number | undefined {
    return this.#fd;
  }

  /** Connected clients. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  /**
   * Listens at a path, where it replaces a socket that is there, or on a descriptor that listens
   * already, which `close()` closes. Throws DeviceError.
   */
  async listen(place: string | number): Promise<void> {
    assert(this.#server === undefined, 'an NBD server listens once');
    const fd = typeof place === 'number' ? place : listenUnix(place);
    const server = createServer({ allowHalfOpen: false }, (socket) => this.#accept(socket));
    this.#server = server;
    server.listen({ fd });
    try {
      await once(server, 'listening');
    } catch (cause) {
      const step = `listening on descriptor ${fd}`;
      throw new DeviceError(
        `${step} failed: ${errorText(cause)}`,
        { code: 'failed', step },
        { cause },
      );
    }
    this.#fd = fd;
    server.on('error', (error) =>
      this.#parts.logger.error({ error: errorText(error) }, 'cannot accept an NBD client'),
    );
  }

  /** Offers a disk. The name must be new; a description is for people. Throws DeviceError. */
  export(name: string, disk: ReadOnlyDisk, init: { description?: string } = {}): void {
    const description = init.description ?? '';
    for (const text of [name, description]) {
      assert(
        Buffer.byteLength(text) <= STRING_BYTES_MAX && !text.includes('\0'),
        `a text of NBD has at most ${STRING_BYTES_MAX} bytes and no 0`,
      );
    }
    assert(!this.#exports.has(name), `the device ${name} is exported already`);
    if (this.#exports.size >= EXPORTS_MAX) {
      throw new DeviceError(
        `cannot export ${name}: ${EXPORTS_MAX} devices are exported already (the limit)`,
        { code: 'too-many-mounts', limit: EXPORTS_MAX },
      );
    }
    this.#exports.set(name, { name, disk, description, sizeBytes: disk.sizeBytes });
  }

  /** Offers a disk no longer, and cuts its clients off. Does nothing for an unknown name. */
  async unexport(name: string): Promise<void> {
    if (!this.#exports.delete(name)) return;
    await this.#cut((connection) => connection.exportName === name);
  }

  /**
   * Serves a device on a connected socket without a handshake: its other end is the kernel's, which
   * is told all of it. The server owns the descriptor then. `closed`: the connection has ended.
   */
  adopt(fd: number, name: string): { readonly closed: Promise<void> } {
    const found = defined(this.#exports.get(name), `the device ${name} is exported`);
    const session = { export: found, isStructured: false, hasAllocation: false };
    const connection = new NbdConnection(this.#componentsOfConnection, new Socket({ fd }), session);
    this.#add(connection);
    return { closed: connection.closed };
  }

  /** Cuts off all clients and stops listening. The path stays, for the next server's clients. */
  async close(): Promise<void> {
    const server = this.#server;
    const closed = server?.listening === true ? once(server, 'close') : undefined;
    server?.close();
    await this.#cut(() => true);
    await closed;
    this.#fd = undefined;
  }

  #accept(socket: Socket): void {
    if (this.#connections.size >= CONNECTIONS_MAX) {
      this.#parts.logger.warn(
        { limit: CONNECTIONS_MAX },
        'too many NBD clients: hanging up on a new one',
      );
      socket.destroy();
      return;
    }
    this.#add(new NbdConnection(this.#componentsOfConnection, socket));
  }

  #add(connection: NbdConnection): void {
    this.#connections.add(connection);
    this.#parts.metrics.nbdConnections.set({}, this.#connections.size);
    void connection.closed.then(() => {
      this.#connections.delete(connection);
      this.#parts.metrics.nbdConnections.set({}, this.#connections.size);
    });
  }

  async #cut(isMeant: (connection: NbdConnection) => boolean): Promise<void> {
    const meant = [...this.#connections].filter(isMeant);
    for (const connection of meant) connection.cut();
    await Promise.all(meant.map(({ closed }) => closed));
  }

  get #componentsOfConnection(): ConstructorParameters<typeof NbdConnection>[0] {
    return {
      ...this.#parts,
      exports: { find: (name) => this.#find(name), list: () => this.#list() },
    };
  }

  #find(name: string): NbdExport | undefined {
    const found = this.#exports.get(name);
    if (found !== undefined || name !== '' || this.#exports.size !== 1) return found;
    return this.#list()[0];
  }

  #list(): readonly NbdExport[] {
    return [...this.#exports.values()];
  }
}
