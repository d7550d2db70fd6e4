import type { BackendKind } from '../../device/backends.ts';
import type { HeldStore } from '../../device/store-reader/held-image.ts';
import type { LogLevel } from '../../runtime/node/logger.ts';

/** What the devices of a host need to know, as JSON that a process leaves to the next one. */
export interface DeviceSettings {
  readonly format: 1;
  readonly logLevel: LogLevel;
  readonly agentSocket: string;
  readonly readTimeoutMs: number;
  readonly backend: BackendKind;
  readonly stateDir: string;
  readonly mountFolders: readonly string[];
  readonly storeDir: string;
  readonly writableSizeMax: number;
  /** In base64. */
  readonly untrustedSigners: readonly string[];
}

/** The settings that a process has left; undefined when there are none that this one knows. */
export function parseSettings(text: string): DeviceSettings | undefined {
  try {
    const value = JSON.parse(text) as Partial<DeviceSettings> | null;
    return value?.format === 1 ? (value as DeviceSettings) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The agent's store, as a device process reads it. The digests that images bring are not known
 * here: when the agent opens an image, it drops from its store what does not match them.
 */
export function storeOf({ storeDir, untrustedSigners }: DeviceSettings): HeldStore {
  const keys = untrustedSigners.map((key) => new Uint8Array(Buffer.from(key, 'base64')));
  return { dir: storeDir, untrustedSigners: keys, digestsOf: () => undefined };
}
