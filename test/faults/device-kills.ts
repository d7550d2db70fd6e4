import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { defined } from '../../src/util/assert.ts';
import { errorText } from '../../src/util/errors.ts';
import { makeBusyboxImage } from '../kit/block-image.ts';
import { Containerd } from '../kit/containerd.ts';
import { startDeviceHost, type AgentHost } from '../kit/device-host.ts';
import { startDeviceProcess, type TestDeviceProcess } from '../kit/device-process.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { sampleBytes } from '../kit/layers.ts';
import { pushLayout } from '../kit/skopeo.ts';
import { tempFolder, type AtEnd } from '../kit/temp-folder.ts';
import type { FaultReport } from './fault-report.ts';

const run = promisify(execFile);

/** The file that the readers read: more than the caches of a mount hold. */
const BIG_BYTES = 48 * 1024 * 1024;
const SMALL = 'the image is read\n';

/** Longest pause before a kill, in milliseconds. */
const PAUSE_MS_MAX = 1_200;

/** Shares of the victims; the rest are processes that serve devices. */
const AGENT_SHARE = 0.4;
const KEEPER_SHARE = 0.08;

/** How often the process that follows a killed one is killed too, before it is ready. */
const AGAIN_SHARE = 0.2;

/** Longest wait of readers for their end after the end of a keeper, in milliseconds. */
const END_MS_MAX = 30_000;

/** Tries to start a container, and the pause between two of them, in milliseconds. */
const ATTEMPTS_MAX = 10;
const ATTEMPT_PAUSE_MS = 1_000;

/** A process that waits in the kernel in two looks so far apart is stuck. */
const STUCK_MS = 5_000;

/**
 * A host with an agent, `xylem device`, containerd, and containers of a block image, one of which
 * holds the device that fio and a checksum read past all caches. Again and again the soak kills
 * the agent, the process that serves the devices, or its keeper, and starts a new container. Kills
 * of the first two fail no read. A keeper's end fails them all at once; the next start of `xylem
 * device` clears what is left, and new containers start.
 */
export async function deviceKills(
  init: { seed: number; kills: number },
  report: FaultReport,
): Promise<void> {
  const ends: Parameters<AtEnd>[0][] = [];
  const atEnd: AtEnd = (end) => void ends.push(end);
  try {
    const registry = await startDockerRegistry({}, atEnd);
    const image = `${registry}/app:1`;
    const data = { big: sampleBytes(BIG_BYTES, init.seed), small: Buffer.from(SMALL) };
    const layout = await makeBusyboxImage(tempFolder(atEnd), data);
    await pushLayout(`${layout}:block`, image);
    const { cluster, host, device } = await startDeviceHost(registry, atEnd);
    const containerd = await Containerd.start(tempFolder(atEnd), {
      snapshotter: { socket: device.snapshotter },
      atEnd,
    });
    const soak = new DeviceKills(
      { report, cluster, host, containerd, atEnd },
      { ...init, image, device, sum: createHash('sha256').update(data.big).digest('hex') },
    );
    await soak.run();
  } finally {
    for (const end of ends.reverse()) {
      try {
        await end();
      } catch (error) {
        report.violate('broken promise', `an end failed: ${errorText(error)}`);
      }
    }
  }
}

interface Parts extends AgentHost {
  readonly report: FaultReport;
  readonly containerd: Containerd;
  readonly atEnd: AtEnd;
}

interface Readers {
  /** Ends them, and reports what they found. */
  end(): Promise<void>;
  /** Resolves when they have ended by themselves. */
  readonly ended: Promise<unknown>;
}

class DeviceKills {
  readonly #parts: Parts;
  readonly #image: string;
  readonly #seed: number;
  readonly #killCount: number;
  /** sha256 of the file that is read. */
  readonly #sum: string;
  readonly #clock = new SystemClock();
  readonly #random: SeededRandom;
  #device: TestDeviceProcess;
  #readers: Readers | undefined;
  #kills = 0;
  #containers = 0;

  constructor(
    parts: Parts,
    init: { seed: number; kills: number; image: string; sum: string; device: TestDeviceProcess },
  ) {
    this.#parts = parts;
    this.#image = init.image;
    this.#seed = init.seed;
    this.#killCount = init.kills;
    this.#sum = init.sum;
    this.#device = init.device;
    this.#random = new SeededRandom(`device kills ${init.seed}`);
  }

  async run(): Promise<void> {
    const { containerd } = this.#parts;
    await containerd.pullRemote(this.#image);
    this.#readers = await this.#startReaders();
    await this.#startContainer();
    while (this.#kills < this.#killCount) await this.#kill();
    await this.#readers.end();
    await this.#lookForStuck();
    await containerd.clear();
    await containerd.ctr(['images', 'rm', '--sync', this.#image]);
  }

  get #again(): string {
    return `after ${this.#kills} kills; again: --only device --seed ${this.#seed}`;
  }

  async #kill(): Promise<void> {
    await this.#clock.sleep(this.#random.below(PAUSE_MS_MAX));
    this.#kills++;
    const draw = this.#random.float();
    if (draw < AGENT_SHARE) await this.#killAgent();
    else if (draw < AGENT_SHARE + KEEPER_SHARE) await this.#killKeeper();
    else await this.#killServing();
    await this.#startContainer();
  }

  async #killAgent(): Promise<void> {
    const { cluster, host, report } = this.#parts;
    report.add('injected', 'kills of an agent');
    host.process.signal('SIGKILL');
    await cluster.restart(host);
    if (this.#random.float() < AGAIN_SHARE) return; // The container starts without an agent.
    await waitReady(host.process);
  }

  async #killServing(): Promise<void> {
    this.#parts.report.add('injected', 'kills of a process that serves devices');
    await this.#device.killServing(this.#random.float() < AGAIN_SHARE ? 2 : 1);
  }

  async #killKeeper(): Promise<void> {
    const { report, containerd, host, atEnd } = this.#parts;
    report.add('injected', 'kills of a keeper');
    const readers = defined(this.#readers, 'they run');
    this.#device.keeper.kill('SIGKILL');
    const timer = this.#clock.sleep(END_MS_MAX).then(() => 'late');
    if ((await Promise.race([readers.ended, timer])) === 'late') {
      report.violate('hang', `readers outlast their keeper; ${this.#again}`);
    }
    await containerd.clear();
    this.#device = await startDeviceProcess(host, {}, atEnd);
    this.#readers = await this.#startReaders();
  }

  /** A new container reads its image. */
  async #startContainer(): Promise<void> {
    const { containerd, report } = this.#parts;
    const small = ['cat', '/data/small'];
    try {
      const output = await this.#started('one', (id) => containerd.run(this.#image, id, small));
      if (output !== SMALL) report.violate('wrong bytes', `of a container; ${this.#again}`);
      report.add('checked', 'containers started after a kill');
    } catch (error) {
      report.violate('failed read', `no container: ${errorText(error)}; ${this.#again}`);
    }
  }

  /**
   * Starts a container. A start is tried again, as kubelets do, while containerd has not connected
   * to the next process: it pauses between its attempts.
   */
  async #started<T>(name: string, start: (id: string) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await start(`xylem-kills-${process.pid}-${name}-${++this.#containers}`);
      } catch (error) {
        if (attempt === ATTEMPTS_MAX || !errorText(error).includes(': unavailable')) throw error;
        this.#parts.report.add('checked', 'starts of a container tried again');
        await this.#clock.sleep(ATTEMPT_PAUSE_MS);
      }
    }
  }

  /** A container that holds the device, and what reads it. */
  async #startReaders(): Promise<Readers> {
    const { containerd } = this.#parts;
    const forever = ['sleep', '100000'];
    await this.#started('holder', (id) => containerd.runDetached(this.#image, id, forever));
    const { devices } = await askAgent({ admin: this.#device.socket }, 'devices');
    const file = join(defined(devices[0], 'the device of the container').dir, 'data', 'big');
    const [fio, sums] = [this.#fio(file), this.#sums(file)];
    const ended = Promise.all([fio.ended, sums.ended]);
    const end = async (): Promise<void> => {
      fio.stop();
      sums.stop();
      await ended;
    };
    return { end, ended };
  }

  /** Random reads; errors are violations unless their keeper was killed. */
  #fio(file: string) {
    const shape = ['--direct=1', '--rw=randread', '--bs=4k', '--iodepth=4', '--ioengine=libaio'];
    const args = ['--name=reads', `--filename=${file}`, '--readonly', ...shape];
    const child = spawn('fio', [...args, '--time_based', '--runtime=86400'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const keeper = this.#device.keeper;
    let text = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data: Buffer) => (text += data.toString()));
    }
    const ended = once(child, 'close').then(() => {
      const isFree = keeper.exitCode === null && keeper.signalCode === null;
      const { report } = this.#parts;
      const count = Number(/issued rwts: total=(\d+)/.exec(text)?.[1] ?? 0);
      report.add('checked', 'random reads by fio', count);
      if (isFree && /error=|err= *[1-9]/.test(text)) {
        report.violate('failed read', `fio: ${text.slice(0, 500)}; ${this.#again}`);
      }
    });
    return { ended, stop: () => void child.kill('SIGINT') };
  }

  /** The whole file again and again, compared by its sum. */
  #sums(file: string) {
    const { report } = this.#parts;
    const keeper = this.#device.keeper;
    const state = { on: true };
    const script = 'dd if="$1" iflag=direct bs=256k status=none 2>&1 | sha256sum';
    const work = async (): Promise<void> => {
      while (state.on && keeper.exitCode === null && keeper.signalCode === null) {
        const { stdout } = await run('sh', ['-c', script, 'sh', file]);
        if (keeper.exitCode !== null || keeper.signalCode !== null) return;
        if (stdout.split(' ')[0] !== this.#sum) {
          report.violate('wrong bytes', `sum ${stdout.trim()}; ${this.#again}`);
        }
        report.add('checked', 'sums of the whole file');
      }
    };
    return { ended: work(), stop: () => void (state.on = false) };
  }

  async #lookForStuck(): Promise<void> {
    const before = waitingProcesses(this.#device.snapshotsDir);
    if (before.size === 0) return;
    await this.#clock.sleep(STUCK_MS);
    const stuck = [...waitingProcesses(this.#device.snapshotsDir)].filter((name) =>
      before.has(name),
    );
    for (const name of stuck) {
      this.#parts.report.violate('hang', `${name} is in state D; ${this.#again}`);
    }
  }
}

/**
 * Programs in uninterruptible sleep, as `pid name`: those that this process started, and those of
 * containers whose snapshots lie in the folder.
 */
function waitingProcesses(folder: string): ReadonlySet<string> {
  const parents = new Map<string, string>();
  const waiting: { readonly pid: string; readonly name: string }[] = [];
  for (const pid of readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))) {
    const [, name = '', state, parent = ''] =
      /^\d+ \((.*)\) (\S) (\d+)/s.exec(textOf(`/proc/${pid}/stat`)) ?? [];
    parents.set(pid, parent);
    if (state === 'D') waiting.push({ pid, name });
  }
  const isOurs = (pid: string): boolean => {
    for (let at: string | undefined = pid; at !== undefined; at = parents.get(at)) {
      if (at === String(process.pid)) return true;
    }
    return textOf(`/proc/${pid}/mountinfo`).includes(folder) && parents.get(pid) !== '2';
  };
  return new Set(waiting.filter(({ pid }) => isOurs(pid)).map(({ pid, name }) => `${pid} ${name}`));
}

/** The text of a file of /proc; empty when its process has ended. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
