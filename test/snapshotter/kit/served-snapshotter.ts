import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { silentLogger, type Logger } from '../../../src/runtime/logger.ts';
import { silentMetrics, type Metrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import type { ImageDevices } from '../../../src/snapshotter/contracts.ts';
import { overlayOptions } from '../../../src/snapshotter/files/overlay-options.ts';
import { SnapshotsServer } from '../../../src/snapshotter/rpc/snapshots-server.ts';
import { Snapshotter } from '../../../src/snapshotter/snapshotter.ts';
import { SqliteStore } from '../../../src/snapshotter/store/sqlite-store.ts';
import { tempFolder, type AtEnd } from '../../kit/temp-folder.ts';

/** A snapshotter that serves on a socket. */
export interface ServedSnapshotter {
  readonly folder: string;
  readonly socket: string;
  readonly snapshotter: Snapshotter;
  stop(): Promise<void>;
}

/** Devices of a host that has none. */
const NO_DEVICES: ImageDevices = {
  check: () => Promise.reject(new Error('no device is to be checked')),
  checkTrace: () => Promise.reject(new Error('no trace is to be checked')),
  hold: () => Promise.reject(new Error('no device is to be held')),
  resume: () => false,
  drop: () => Promise.resolve(),
};

/** What a snapshotter of a test is made of. */
export interface SnapshotterSetting {
  readonly folder?: string;
  /** For layers; the folder itself when not given. */
  readonly stateDir?: string;
  readonly devices?: ImageDevices;
  readonly bootId?: string;
  readonly logger?: Logger;
  readonly metrics?: Metrics;
  readonly atEnd?: AtEnd;
}

/** The real thing: SQLite, folders and a socket below one folder. It stops at the end. */
export async function startSnapshotter(
  setting: SnapshotterSetting = {},
): Promise<ServedSnapshotter> {
  const { atEnd = onTestFinished, devices = NO_DEVICES } = setting;
  const { logger = silentLogger, metrics = silentMetrics } = setting;
  const folder = setting.folder ?? tempFolder(atEnd);
  const socket = join(folder, 'snapshotter.sock');
  const shared = { clock: new SystemClock(), logger, metrics };
  const snapshotter = new Snapshotter(
    {
      ...{ ...shared, devices, hash: new NodeHash() },
      store: new SqliteStore({ path: join(folder, 'metadata.db') }),
    },
    {
      stateDir: setting.stateDir ?? folder,
      bootId: setting.bootId ?? bootId(),
      overlayOptions: overlayOptions(),
    },
  );
  const server = new SnapshotsServer({ ...shared, snapshots: snapshotter }, { socketPath: socket });
  let isRunning = true;
  const stop = async (): Promise<void> => {
    if (!isRunning) return;
    isRunning = false;
    await server.stop();
    await snapshotter.stop();
  };
  atEnd(stop);
  await snapshotter.start();
  await snapshotter.heldAgain;
  await server.start();
  return { folder, socket, snapshotter, stop };
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
