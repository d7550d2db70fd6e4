import { spawn, spawnSync, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import type { ImageFiles, MountImage, NotDone } from '../../convert/check-image.ts';
import { DeviceError } from '../../device/errors.ts';
import { blockLayers } from '../../image/manifest.ts';
import { moduleBeside } from '../../runtime/node/module-beside.ts';
import type { MountAnswer, MountOrder } from './mount-server.ts';

/** What must be open to this process to mount an image. */
const DEVICES = ['/dev/fuse', '/dev/loop-control'];

/** Private: what is mounted goes with the process, however that ends. */
const ISOLATION = ['--mount', '--propagation', 'private'];

/** Throws DeviceError (`not-permitted`) where this process cannot mount images. */
export function requireMounts(): void {
  const fault = mountFault();
  if (fault !== undefined) throw notPermitted(fault);
}

function mountFault(): string | undefined {
  if (process.getuid?.() !== 0) return 'it takes root';
  for (const path of DEVICES) {
    try {
      accessSync(path, constants.R_OK | constants.W_OK);
    } catch {
      return `${path} cannot be opened`;
    }
  }
  const { status, stderr, error } = spawnSync('unshare', [...ISOLATION, 'true']);
  if (status === 0) return undefined;
  const why = error === undefined ? stderr.toString().trim() : error.message;
  return `unshare, of util-linux, fails here: ${why}`;
}

/**
 * Mounts images for a check: `must` throws DeviceError where that fails, otherwise the reason is
 * given. `folder` is one of the command's own.
 */
export function imageMounter({
  folder,
  must,
}: {
  readonly folder: string;
  readonly must: boolean;
}): MountImage {
  return async (image, use) => {
    let server: ImageServer;
    try {
      requireMounts();
      server = await ImageServer.start(image, join(folder, 'mounted'));
    } catch (error) {
      if (must || !(error instanceof DeviceError)) throw error;
      return { reason: error.message } satisfies NotDone;
    }
    try {
      return await use(server.root);
    } finally {
      await server.stop();
    }
  };
}

function notPermitted(why: string): DeviceError {
  const step = 'mounting for the check';
  return new DeviceError(`the image cannot be mounted here: ${why}`, {
    code: 'not-permitted',
    step,
  });
}

/**
 * A process that serves a mounted image. This one looks at the files, which would wait for itself
 * if it served them, too.
 */
class ImageServer {
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #ended: Promise<unknown>;
  /** What it says on its standard error. */
  readonly #complaint: Promise<string>;
  #root = '';

  private constructor(child: ChildProcessByStdio<Writable, Readable, Readable>) {
    this.#child = child;
    this.#ended = once(child, 'exit');
    this.#complaint = text(child.stderr);
  }

  /** Throws DeviceError. */
  static async start(image: ImageFiles, folder: string): Promise<ImageServer> {
    const { reference, digest, manifest, pathOf } = image;
    await mkdir(folder, { recursive: true });
    const files = Object.fromEntries(
      blockLayers(manifest).map((blob) => [blob.digest, pathOf(blob.digest)]),
    );
    const order: MountOrder = { reference, digest, manifest, files, folder };
    const program = fileURLToPath(moduleBeside(import.meta.url, 'mount-server'));
    const args = [...ISOLATION, process.execPath, '--no-warnings', program];
    // Ctrl-C goes to the command, which ends this.
    const child = spawn('unshare', args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    child.stdin.on('error', () => {});
    child.stdin.write(`${JSON.stringify(order)}\n`);
    const server = new ImageServer(child);
    try {
      await server.#started();
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  /** The folder of the image's files, in the namespace of the process. */
  get root(): string {
    return this.#root;
  }

  async #started(): Promise<void> {
    for await (const line of createInterface({ input: this.#child.stdout })) {
      const answer = JSON.parse(line) as MountAnswer;
      if ('failure' in answer) throw new DeviceError(answer.failure, answer.detail);
      this.#root = `/proc/${this.#child.pid}/root${answer.dir}`;
      return;
    }
    throw notPermitted(`its process ended: ${(await this.#complaint).trim().slice(0, 500)}`);
  }

  /** Ends it; nothing of the image may be in use. */
  async stop(): Promise<void> {
    this.#child.stdin.end();
    await this.#ended;
  }
}
