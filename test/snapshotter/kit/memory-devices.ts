import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
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
  /** Chain ids by holder. */
  readonly holds = new Map<string, string>();
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async check(chain: DeviceChain, signal: AbortSignal): Promise<void> {
    await this.gate(chain);
    signal.throwIfAborted();
    this.checked.push(chain);
  }

  async hold(chain: DeviceChain, holder: string, signal: AbortSignal) {
    await this.gate(chain, holder);
    signal.throwIfAborted();
    this.holds.set(holder, chain.chainId);
    const dir = join(this.#folder, chain.chainId.replace(':', '-'));
    mkdirSync(dir, { recursive: true });
    return { dir };
  }

  async drop(holder: string): Promise<void> {
    this.holds.delete(holder);
  }
}
