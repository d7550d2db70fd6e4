import { resolve } from 'node:path';
import { peerId } from '../../util/peer-id.ts';
import { ConfigError } from '../config/config.ts';
import type { Config } from '../config/config-schema.ts';
import { agentSocketOf } from '../config/device-keys.ts';
import type { DeviceSettings } from './device-settings.ts';

/** What the devices need to know, by the configuration. Rejects with ConfigError. */
export async function settingsOf(config: Config): Promise<DeviceSettings> {
  const { device, log, store } = config;
  return {
    ...{ format: 1, logLevel: log.level, agentSocket: requireAgentSocket(config) },
    ...{ readTimeoutMs: device.readTimeoutMs, stateDir: resolve(device.stateDir) },
    backend: device.backend,
    ...{ mountFolders: device.mountFolders, storeDir: store.dir },
    writableSizeMax: device.writableSizeMax,
    untrustedSigners: await signersOf(config),
  };
}

async function signersOf({ untrustedRoots }: Config): Promise<readonly string[]> {
  if (untrustedRoots.length === 0) return [];
  // Loaded only where it is needed: it brings half of libp2p.
  const { publicKeyOf } = await import('../../net/node/identity.ts');
  const keys = untrustedRoots.flatMap((peer) => publicKeyOf(peerId(peer)) ?? []);
  return keys.map((key) => Buffer.from(key).toString('base64'));
}

function requireAgentSocket(config: Config): string {
  const path = agentSocketOf(config);
  if (path !== undefined) return path;
  throw new ConfigError(
    'device.agentSocket must be the path of a socket: `xylem device` reads through the agent',
    { code: 'invalid-value', key: 'device.agentSocket' },
  );
}
