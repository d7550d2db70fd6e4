import { existsSync, rmSync } from 'node:fs';
import { listenUnix } from '../sockets.ts';
import type { DescriptorKeeper } from './kept-descriptors.ts';

/**
 * A listening Unix socket that outlives this process: who connects while no process accepts waits
 * for the next one, and is not refused.
 *
 * Life: constructed -> `open()` -> `remove()`, when no process is to follow.
 */
export class KeptListener {
  readonly #keeper: DescriptorKeeper;
  readonly #path: string;

  constructor(components: { keeper: DescriptorKeeper }, init: { path: string }) {
    this.#keeper = components.keeper;
    this.#path = init.path;
  }

  /**
   * The descriptor that listens at the path: that of an earlier process, or a new one, which only
   * this user may connect to. Rejects with DeviceError.
   */
  async open(): Promise<number> {
    const inherited = this.#keeper.inherited.get(this.#name);
    if (inherited !== undefined && existsSync(this.#path)) return inherited;
    const fd = listenUnix(this.#path);
    await this.#keeper.keep(this.#name, fd);
    return fd;
  }

  remove(): void {
    rmSync(this.#path, { force: true });
    this.#keeper.forget(this.#name);
  }

  get #name(): string {
    return `socket:${this.#path}`;
  }
}
