import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { onTestFinished } from 'vitest';
import { readMountTable } from '../../src/device/mount-table.ts';
import { errorText } from '../../src/util/errors.ts';
import { tempFolder, type AtEnd } from './temp-folder.ts';

const run = promisify(execFile);

/** Plugins that nothing here uses, or that need devices or kernel modules. */
const DISABLED = ['aufs', 'btrfs', 'devmapper', 'zfs'];

const CRI = 'io.containerd.grpc.v1.cri';

/**
 * How it keeps what it unpacked: as a copy for each layer, as layers of overlayfs, or by a
 * snapshotter in another process.
 */
type Snapshotter = 'native' | 'overlayfs' | { readonly socket: string };

/** The name that a snapshotter in another process has here. */
const PROXY_NAME = 'xylem';

/** Longest time of a call, in milliseconds. */
const CALL_MS_MAX = 90_000;

/** Settings of a containerd. */
export interface ContainerdOptions {
  /** A command that runs the client elsewhere, since the client does the pulling. */
  readonly enter?: readonly string[];
  /** A command that runs containerd itself elsewhere. */
  readonly daemonEnter?: readonly string[];
  /** What the configuration says to CRI of registries. Default: the `config_path`. */
  readonly registry?: string;
  readonly snapshotter?: Snapshotter;
  /** Serves CRI too, with this image for sandboxes. */
  readonly sandboxImage?: string;
  readonly atEnd?: AtEnd;
}

/**
 * A containerd of its owner's own, with its own folders and socket. Its containers end before it
 * does.
 */
export class Containerd {
  /** The socket of its API. */
  readonly socket: string;
  /** Its configuration; read at each start. */
  readonly configFile: string;
  readonly #folder: string;
  readonly #daemonEnter: readonly string[];
  readonly #hostsDir: string;
  readonly #enter: readonly string[];
  readonly #snapshotter: string;
  #child: ChildProcess | undefined;

  private constructor(folder: string, hostsDir: string, options: ContainerdOptions) {
    const { enter = [], daemonEnter = [], snapshotter = 'native' } = options;
    this.#daemonEnter = daemonEnter;
    this.configFile = join(folder, 'config.toml');
    this.#folder = folder;
    this.#hostsDir = hostsDir;
    this.#enter = enter;
    this.#snapshotter = typeof snapshotter === 'string' ? snapshotter : PROXY_NAME;
    this.socket = join(folder, 'sock');
    for (const name of ['root', 'state']) mkdirSync(join(folder, name));
    writeFileSync(this.configFile, this.#configuration(options).join('\n'));
  }

  /** Starts it, until the end: of the running test, if nothing else is said. */
  static async start(hostsDir: string, options: ContainerdOptions = {}): Promise<Containerd> {
    const { atEnd = onTestFinished } = options;
    const containerd = new Containerd(tempFolder(atEnd), hostsDir, options);
    atEnd(() => containerd.#end());
    await containerd.#start();
    return containerd;
  }

  /** Pulls and unpacks an image; returns the client's output. Rejects when the pull fails. */
  async pull(reference: string, options: readonly string[] = []): Promise<string> {
    const args = ['images', 'pull', '--hosts-dir', this.#hostsDir];
    return this.ctr([...args, '--snapshotter', this.#snapshotter, ...options, reference]);
  }

  /** Fetches an image's blobs, without unpacking them. Rejects when that fails. */
  async fetch(reference: string): Promise<string> {
    return this.ctr(['content', 'fetch', '--hosts-dir', this.#hostsDir, reference]);
  }

  /**
   * Pulls as clients do that say where an image is from: layers that the snapshotter reads on
   * demand are not downloaded.
   */
  async pullRemote(reference: string): Promise<string> {
    const args = ['images', 'rpull', '--plain-http', '--snapshotter', this.#snapshotter];
    return this.ctr([...args, reference], { client: 'ctr-remote' });
  }

  /**
   * Runs a command in a new container of an image, and removes that; returns what it printed. The
   * shim writes that into a file: the client's own pipes lose what a quick command prints.
   */
  async run(reference: string, id: string, command: readonly string[]): Promise<string> {
    const output = join(this.#folder, `${id}.out`);
    const args = ['run', '--rm', '--snapshotter', this.#snapshotter, '--log-uri'];
    try {
      await this.ctr([...args, `file://${output}`, reference, id, ...command]);
    } catch (error) {
      const said = existsSync(output) ? readFileSync(output, 'utf8') : '';
      throw new Error(`${errorText(error)}\n${said}`, { cause: error });
    }
    return readFileSync(output, 'utf8');
  }

  /** Starts a command in a new container, which runs until `clear()` or the end. */
  async runDetached(reference: string, id: string, command: readonly string[]): Promise<void> {
    const args = ['run', '--detach', '--snapshotter', this.#snapshotter];
    await this.ctr([...args, reference, id, ...command]);
  }

  /** Mounts a pulled image, writable, at a folder; the caller unmounts it. */
  async mount(reference: string, target: string): Promise<void> {
    const args = ['images', 'mount', '--rw', '--snapshotter', this.#snapshotter];
    await this.ctr([...args, reference, target]);
  }

  /**
   * Makes a read-only snapshot. The client sets nothing that keeps it, so a collection that
   * something before has asked for would take it: this waits for one first.
   */
  async view(name: string, parent: string): Promise<void> {
    const lease = `before-${name}`;
    await this.ctr(['leases', 'create', '--id', lease]);
    await this.ctr(['leases', 'rm', '--sync', lease]);
    await this.ctr(['snapshots', '--snapshotter', this.#snapshotter, 'view', name, parent]);
  }

  /** Digests of all content that it holds. */
  async content(): Promise<readonly string[]> {
    return linesOf(await this.ctr(['content', 'ls', '--quiet']));
  }

  /** Calls the client, or another of the same usage, in the namespace of the tests. */
  async ctr(args: readonly string[], { client = 'ctr', namespace = 'test' } = {}): Promise<string> {
    const of = ['--address', this.socket, '--namespace', namespace];
    const [command = '', ...rest] = [...this.#enter, client, ...of, ...args];
    const { stdout } = await run(command, rest, { timeout: CALL_MS_MAX, maxBuffer: 2 ** 24 });
    return stdout;
  }

  /** Kills it, or stops it, and starts it again; its containers run on. */
  async restart(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    await this.#stop(signal);
    await this.#start();
  }

  /** Ends all containers and forgets them. */
  async clear(): Promise<void> {
    for (const namespace of linesOf(await this.ctr(['namespaces', 'ls', '--quiet']))) {
      const ask = (args: readonly string[]): Promise<string> => this.ctr(args, { namespace });
      for (const id of linesOf(await ask(['tasks', 'ls', '--quiet']))) {
        await ask(['tasks', 'delete', '--force', id]);
      }
      for (const id of linesOf(await ask(['containers', 'ls', '--quiet']))) {
        await ask(['containers', 'delete', id]);
      }
    }
  }

  #configuration(options: ContainerdOptions): readonly string[] {
    const { snapshotter, sandboxImage } = options;
    const folder = this.#folder;
    const { registry = `[plugins."${CRI}".registry]\n  config_path = "${this.#hostsDir}"` } =
      options;
    const disabled = DISABLED.map((name) => `io.containerd.snapshotter.v1.${name}`);
    if (sandboxImage === undefined) disabled.push(CRI);
    const cri = [
      `[plugins."${CRI}"]`,
      `  sandbox_image = "${sandboxImage}"`,
      '  restrict_oom_score_adj = true',
      '  disable_apparmor = true',
      registry,
      `[plugins."${CRI}".cni]\n  bin_dir = "${folder}/cni"\n  conf_dir = "${folder}/cni"`,
      `[plugins."${CRI}".containerd]`,
      `  snapshotter = "${this.#snapshotter}"`,
      '  disable_snapshot_annotations = false',
      '  discard_unpacked_layers = true',
    ];
    const proxy =
      typeof snapshotter === 'object'
        ? [`[proxy_plugins.${PROXY_NAME}]`, '  type = "snapshot"', addressOf(snapshotter)]
        : [];
    return [
      'version = 2',
      `root = "${join(folder, 'root')}"`,
      `state = "${join(folder, 'state')}"`,
      `disabled_plugins = ${JSON.stringify(disabled)}`,
      `[grpc]\n  address = "${this.socket}"`,
      `[plugins."io.containerd.internal.v1.opt"]\n  path = "${join(folder, 'opt')}"`,
      ...proxy,
      ...(sandboxImage === undefined ? [] : cri),
    ];
  }

  async #start(): Promise<void> {
    const line = [...this.#daemonEnter, 'containerd', '-c', this.configFile];
    const [command = '', ...args] = line;
    const child = spawn(command, args, {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#child = child;
    const lines: string[] = [];
    for await (const line of createInterface({ input: child.stderr })) {
      lines.push(line);
      if (!line.includes('containerd successfully booted')) continue;
      child.stderr.resume();
      return;
    }
    throw new Error(`containerd did not start:\n${lines.slice(-5).join('\n')}`);
  }

  async #stop(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }

  async #end(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    try {
      await this.clear();
    } finally {
      await this.#stop('SIGTERM');
      await this.#unmountAll();
    }
  }

  /** What a test that failed has left: roots of containers, memory of sandboxes. */
  async #unmountAll(): Promise<void> {
    const places = readMountTable().map(({ mountPoint }) => mountPoint);
    for (const place of places.reverse()) {
      if (place.startsWith(`${this.#folder}/`)) await run('umount', ['--lazy', place]);
    }
  }
}

function addressOf({ socket }: { readonly socket: string }): string {
  return `  address = "${socket}"`;
}

function linesOf(text: string): readonly string[] {
  return text.split('\n').filter((line) => line !== '');
}
