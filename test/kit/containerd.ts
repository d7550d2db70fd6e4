import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { onTestFinished } from 'vitest';
import { tempFolder, type AtEnd } from './temp-folder.ts';

const run = promisify(execFile);

/** Plugins that nothing here uses, or that need devices or kernel modules. */
const DISABLED = ['cri', 'aufs', 'btrfs', 'devmapper', 'zfs'];

/** How it keeps what it unpacked: as a copy for each layer, or as layers of overlayfs. */
export type Snapshotter = 'native' | 'overlayfs';

/** Longest time of a call, in milliseconds. */
const CALL_MS_MAX = 90_000;

/** A containerd of its owner's own: its own folders and socket, no CRI. */
export class Containerd {
  readonly #socket: string;
  readonly #hostsDir: string;
  readonly #enter: readonly string[];
  readonly #snapshotter: Snapshotter;

  private constructor(init: {
    socket: string;
    hostsDir: string;
    enter: readonly string[];
    snapshotter: Snapshotter;
  }) {
    this.#socket = init.socket;
    this.#hostsDir = init.hostsDir;
    this.#enter = init.enter;
    this.#snapshotter = init.snapshotter;
  }

  /**
   * Starts it, until the end: of the running test, if nothing else is said. `enter` is a command
   * that runs the client elsewhere, since the client does the pulling.
   */
  static async start(
    hostsDir: string,
    {
      enter = [],
      snapshotter = 'native',
      atEnd = onTestFinished,
    }: { enter?: readonly string[]; snapshotter?: Snapshotter; atEnd?: AtEnd } = {},
  ): Promise<Containerd> {
    const folder = tempFolder(atEnd);
    const socket = join(folder, 'sock');
    for (const name of ['root', 'state']) mkdirSync(join(folder, name));
    const plugins = DISABLED.map((name) =>
      name === 'cri' ? 'io.containerd.grpc.v1.cri' : `io.containerd.snapshotter.v1.${name}`,
    );
    const config = [
      'version = 2',
      `root = "${join(folder, 'root')}"`,
      `state = "${join(folder, 'state')}"`,
      `disabled_plugins = ${JSON.stringify(plugins)}`,
      `[grpc]\n  address = "${socket}"`,
      `[plugins."io.containerd.internal.v1.opt"]\n  path = "${join(folder, 'opt')}"`,
    ];
    writeFileSync(join(folder, 'config.toml'), config.join('\n'));
    const child = spawn('containerd', ['-c', join(folder, 'config.toml')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    atEnd(async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      await exited;
    });
    const lines: string[] = [];
    for await (const line of createInterface({ input: child.stderr })) {
      lines.push(line);
      if (!line.includes('containerd successfully booted')) continue;
      child.stderr.resume();
      return new Containerd({ socket, hostsDir, enter, snapshotter });
    }
    throw new Error(`containerd did not start:\n${lines.slice(-5).join('\n')}`);
  }

  /** Pulls and unpacks an image; returns the client's output. Rejects when the pull fails. */
  async pull(reference: string, options: readonly string[] = []): Promise<string> {
    const args = ['images', 'pull', '--hosts-dir', this.#hostsDir];
    return this.#ctr([...args, '--snapshotter', this.#snapshotter, ...options, reference]);
  }

  /** Mounts a pulled image, writable, at a folder; the caller unmounts it. */
  async mount(reference: string, target: string): Promise<void> {
    const args = ['images', 'mount', '--rw', '--snapshotter', this.#snapshotter];
    await this.#ctr([...args, reference, target]);
  }

  /** Digests of all content that it holds. */
  async content(): Promise<readonly string[]> {
    return (await this.#ctr(['content', 'ls', '--quiet'])).trim().split('\n');
  }

  async #ctr(args: readonly string[]): Promise<string> {
    const all = [...this.#enter, 'ctr', '--address', this.#socket, '--namespace', 'test', ...args];
    const [command = '', ...rest] = all;
    const { stdout } = await run(command, rest, { timeout: CALL_MS_MAX, maxBuffer: 2 ** 24 });
    return stdout;
  }
}
