import { execFile } from 'node:child_process';
import { cp, mkdir, readdir, realpath, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Left out of the image: the Node that is copied anyway, and the largest tool of the project. */
const LEFT_OUT = ['node', '@biomejs', '.bin', '.cache'];

/** Program inside the image, by its path there. */
export const PROGRAM = { node: '/usr/bin/node', script: '/app/report.mjs' } as const;

/** Says over HTTP that it started, after using a few packages: a web server that is asked once. */
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
 * Fills a folder with a small root file system: the running Node, the libraries that it needs, the packages that this program
 * runs on and a script. Some 300 MB, all of it from this machine.
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

/** Paths of the shared libraries, the loader included, that the dynamic linker would take. */
async function librariesOf(program: string): Promise<readonly string[]> {
  const { stdout } = await run('ldd', [program]);
  return [...stdout.matchAll(/(\/[^\s()]+)\s+\(0x/g)].map((match) => match[1] ?? '');
}

/** The folder with the packages that this program runs on. */
function packagesFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.resolve('yaml')));
  while (basename(folder) !== 'node_modules') folder = dirname(folder);
  return folder;
}
