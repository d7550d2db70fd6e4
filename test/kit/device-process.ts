import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { parse, stringify } from 'yaml';
import type { ClusterHost } from '../../src/demo/agent-cluster.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { waitReady } from '../../src/demo/processes.ts';
import type { AtEnd } from './temp-folder.ts';

const CLI = fileURLToPath(new URL('../../bin/xylem.js', import.meta.url));

/** Longest stop, in milliseconds; then it is killed. */
const STOP_MS_MAX = 30_000;

/** `xylem device` beside the agent of a host. */
export interface TestDeviceProcess {
  /** Path of its admin socket. */
  readonly socket: string;
  /** Path of its socket for containerd. */
  readonly snapshotter: string;
  /** Base URL of its admin endpoint. */
  readonly admin: string;
  readonly configFile: string;
  readonly stateDir: string;
  readonly snapshotsDir: string;
  readonly logFile: string;
  /** The keeper. */
  readonly keeper: ChildProcess;
  /** The process that serves the devices at the moment. */
  servingPid(): number;
  /**
   * Kills what serves, then what follows it, as often as told; resolves when another process
   * serves.
   */
  killServing(kills?: number): Promise<void>;
  stop(): Promise<void>;
}

/**
 * Starts `xylem device` with the configuration of a host's agent, and the given keys of its section
 * `device`. It ends with the test.
 */
export async function startDeviceProcess(
  host: ClusterHost,
  device: Readonly<Record<string, unknown>> = {},
  atEnd: AtEnd = onTestFinished,
): Promise<TestDeviceProcess> {
  const dir = dirname(host.storeDir);
  const [port = 0] = await freePorts(1);
  const socket = join(dir, 'device-admin', 'admin.sock');
  const config = parse(readFileSync(join(dir, 'agent.yaml'), 'utf8')) as { device: object };
  const stateDir = join(dir, 'device-process');
  const keys = { ...config.device, enabled: false, stateDir, adminSocket: socket };
  const snapshotterSocket = join(dir, 'snapshotter', 'snapshotter.sock');
  const snapshotsDir = join(dir, 'snapshots');
  const adminListen = `127.0.0.1:${port}`;
  const configFile = join(dir, 'device.yaml');
  const section = { ...keys, adminListen, snapshotterSocket, snapshotsDir, ...device };
  writeFileSync(configFile, stringify({ ...config, device: section }));
  const keeper = spawn(process.execPath, [CLI, 'device', '--config', configFile], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const logFile = join(dir, 'device.log');
  const log = createWriteStream(logFile, { flags: 'a' });
  keeper.stdout.pipe(log, { end: false });
  keeper.stderr.pipe(log, { end: false });
  keeper.once('close', () => log.end());
  const stop = async (): Promise<void> => {
    if (keeper.exitCode !== null || keeper.signalCode !== null) return;
    const ended = once(keeper, 'exit');
    keeper.kill('SIGTERM');
    const killer = setTimeout(() => keeper.kill('SIGKILL'), STOP_MS_MAX);
    await ended;
    clearTimeout(killer);
  };
  atEnd(stop);
  const admin = `http://${adminListen}`;
  const ready = (): Promise<void> => waitReady({ name: 'device', admin, logFile });
  const servingPid = (): number => childOf(keeper.pid ?? 0);
  const killServing = async (kills = 1): Promise<void> => {
    for (let kill = 0; kill < kills; kill++) {
      const pid = servingPid();
      process.kill(pid, 'SIGKILL');
      for (let next = pid; next === pid || next === 0; next = servingPid()) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
    await ready();
  };
  await ready();
  const paths = { socket, snapshotter: snapshotterSocket, configFile, stateDir };
  return { ...paths, snapshotsDir, logFile, admin, keeper, servingPid, killServing, stop };
}

/** The child of a process; 0 when it has none at the moment. */
function childOf(pid: number): number {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    return Number(text.trim().split(' ')[0] ?? 0);
  } catch {
    return 0;
  }
}
