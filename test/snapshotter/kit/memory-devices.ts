import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { DeviceChain, ImageDevices } from '../../../src/snapshotter/contracts.ts';
import { CodedError } from '../../../src/util/errors.ts';

/** Why the devices of a host fail. */
export class FailingDevices extends CodedError<{ readonly code: string }> {}

/**
 * Devices that are empty folders. `gate` is awaited before each check and each hold; they fail when
 * it rejects.
 */
export class MemoryDevices implements ImageDevices {
  gate: (chain: DeviceChain, holder?: string) => Promise<void> = () => Promise.resolve();
  readonly checked: DeviceChain[] = [];
  readonly traces: string[] = [];
  /** Chain ids by holder. */
  readonly holds = new Map<string, string>();
  /** Chain ids of devices that are mounted although nobody has named a holder yet. */
  readonly left = new Set<string>();

  /** Where they are, below the folder of the host. */
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  get folder(): string {
    return dirname(this.#dir);
  }

  async check(chain: DeviceChain, signal: AbortSignal): Promise<void> {
    await this.gate(chain);
    signal.throwIfAborted();
    this.checked.push(chain);
  }

  async checkTrace({ digest }: { digest: string }): Promise<void> {
    this.traces.push(digest);
  }

  async hold(chain: DeviceChain, holder: string, signal: AbortSignal) {
    await this.gate(chain, holder);
    signal.throwIfAborted();
    this.holds.set(holder, chain.chainId);
    const dir = join(this.#dir, chain.chainId.replace(':', '-'));
    mkdirSync(dir, { recursive: true });
    return { dir };
  }

  resume({ chainId }: DeviceChain, holder: string): boolean {
    if (this.left.has(chainId)) this.holds.set(holder, chainId);
    return this.left.has(chainId);
  }

  async drop(holder: string): Promise<void> {
    this.holds.delete(holder);
  }
}
