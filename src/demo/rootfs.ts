import { execFile } from 'node:child_process';
import { cp, mkdir, readdir, realpath, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * Packages left out of the image: Node, which is copied separately, and the largest tool of the
 * project.
 */
const LEFT_OUT = ['node', '@biomejs', '.bin', '.cache'];

/** Paths of the program in the image. */
export const PROGRAM = { node: '/usr/bin/node', script: '/app/report.mjs' } as const;

/** Reports its start over HTTP, after one request to a web server made of a few packages. */
const SCRIPT = `
import findMyWay from 'find-my-way';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { request } from 'undici';
import { parse } from 'yaml';
import { z } from 'zod';

const { version } = z.object({ version: z.string() }).parse(parse('version: ' + process.version));
const router = findMyWay();
router.on('GET', '/', (_, response) => response.end(JSON.stringify({ version })));
const server = createServer((asked, response) => router.lookup(asked, response));
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const answer = await request('http://127.0.0.1:' + server.address().port);
const body = await answer.body.text();
server.close();
server.closeAllConnections();
await fetch(process.argv[2], { method: 'POST', body });
`;

/**
 * Fills a folder with a small root file system: the running Node, its libraries, the packages of
 * this program and a script. It has some 300 MB, all copied from this machine.
 */
export async function buildRootfs(dir: string): Promise<void> {
  const node = await realpath(process.execPath);
  await install(node, join(dir, PROGRAM.node));
  for (const library of await librariesOf(node)) {
    await install(await realpath(library), join(dir, library));
  }
  const modules = packagesFolder();
  for (const name of await readdir(modules)) {
    if (LEFT_OUT.includes(name)) continue;
    await cp(join(modules, name), join(dir, 'app', 'node_modules', name), { recursive: true });
  }
  await writeFile(join(dir, PROGRAM.script), SCRIPT);
  await mkdir(join(dir, 'tmp'), { recursive: true });
}

async function install(source: string, target: string): Promise<void> {
  await mkdir(dirname(target), { recursive: true });
  await cp(source, target, { dereference: true });
}

/** Paths of the shared libraries that the dynamic linker would load, loader included. */
async function librariesOf(program: string): Promise<readonly string[]> {
  const { stdout } = await run('ldd', [program]);
  return [...stdout.matchAll(/(\/[^\s()]+)\s+\(0x/g)].map((match) => match[1] ?? '');
}

/** The folder with the packages of this program. */
function packagesFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.resolve('yaml')));
  while (basename(folder) !== 'node_modules') folder = dirname(folder);
  return folder;
}
