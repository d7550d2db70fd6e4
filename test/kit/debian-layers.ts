import { execFile } from 'node:child_process';
import { createCipheriv } from 'node:crypto';
import { cp, glob, mkdir, open, symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { MIB } from '../../src/util/bytes.ts';

const run = promisify(execFile);

/** What a layer has. */
interface LayerPlan {
  /** The layer below; a layer has none of the packages of those below. */
  readonly on?: LayerName;
  /** With all that they depend on. */
  readonly packages: readonly string[];
  /** Does to the unpacked packages what their scripts would; `below`: the layers below. */
  readonly prepare?: (folder: string, below: readonly string[]) => Promise<void>;
}

/** Names of the layers. */
export type LayerName = 'base' | 'web' | 'python' | 'numpy' | 'model' | 'node' | 'chromium';

const MODEL_BYTES = 200 * MIB;

/** Layers of Debian packages. No script of a package runs. */
export const LAYERS: Readonly<Record<LayerName, LayerPlan>> = {
  base: {
    packages: ['base-files', 'base-passwd', 'bash', 'busybox', 'coreutils', 'libc-bin'],
    prepare: async (folder) => {
      await symlink('bash', join(folder, 'bin', 'sh'));
      for (const name of ['passwd', 'group']) {
        const master = join(folder, 'usr/share/base-passwd', `${name}.master`);
        await cp(master, join(folder, 'etc', name));
      }
    },
  },
  web: { on: 'base', packages: ['nginx-light'] },
  python: { on: 'base', packages: ['python3'], prepare: compilePython },
  numpy: {
    on: 'python',
    packages: ['python3-numpy', 'python3-scipy'],
    prepare: async (folder, below) => {
      const links = glob('usr/lib/*/openblas-pthread/lib*.so.[0-9]', { cwd: folder });
      for await (const path of links) {
        const place = join(dirname(path), '..', basename(path));
        await symlink(join('openblas-pthread', basename(path)), join(folder, place));
      }
      await compilePython(folder, below);
    },
  },
  model: { on: 'numpy', packages: [], prepare: writeModel },
  node: { on: 'base', packages: ['nodejs'] },
  chromium: { on: 'node', packages: ['chromium', 'fonts-dejavu-core'] },
};

/** Layers from the lowest to this one. */
export function chainOf(name: LayerName): readonly LayerName[] {
  const { on } = LAYERS[name];
  return on === undefined ? [name] : [...chainOf(on), name];
}

/**
 * Compiles the modules as the scripts of Debian's Python do, with the Python of these layers. The
 * result does not tell the time.
 */
async function compilePython(folder: string, below: readonly string[]): Promise<void> {
  const folders = [...below, folder];
  const find = async (pattern: string): Promise<string> => {
    for (const cwd of folders) {
      for await (const path of glob(pattern, { cwd })) return join(cwd, path);
    }
    throw new Error(`no layer has ${pattern}`);
  };
  const loader = await find('lib/*-linux-gnu/ld-linux*.so.*');
  const triplet = basename(dirname(loader));
  const libraries = folders.flatMap((each) => [
    join(each, 'lib', triplet),
    join(each, 'usr/lib', triplet),
  ]);
  const python = await find('usr/bin/python3.[0-9]*');
  const compile = ['-m', 'compileall', '-q', '-s', folder, '-p', '/'];
  const modules = join(folder, 'usr/lib');
  const args = ['--library-path', libraries.join(':'), python, ...compile];
  // Fails when some module cannot be compiled, and compiles the others.
  await run(loader, [...args, '--invalidation-mode', 'unchecked-hash', modules], {
    env: { PYTHONHOME: join(dirname(python), '..') },
  }).catch((error: unknown) => {
    if (Object(error).code !== 1) throw error;
  });
}

/** Numbers as those of a model: random but for their exponents. Always the same. */
async function writeModel(folder: string): Promise<void> {
  await mkdir(join(folder, 'srv'));
  const file = await open(join(folder, 'srv', 'model.bin'), 'w');
  try {
    const random = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16));
    const zeros = Buffer.alloc(MIB);
    for (let done = 0; done < MODEL_BYTES; done += MIB) {
      const piece = random.update(zeros);
      // Of each float of 32 bits, little-endian: between 2^-16 and 2 in size.
      for (let at = 3; at < piece.length; at += 4) piece[at] = 0x38 | ((piece[at] ?? 0) & 0x87);
      await file.write(piece);
    }
  } finally {
    await file.close();
  }
}
