import { execFile } from 'node:child_process';
import { cp, mkdir, realpath, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Packages that the program in the image loads: a large one and a small one, so that it reads more than its own binary. */
const PACKAGES = ['typescript', 'yaml'];

/** Program inside the image, by its path there. */
export const PROGRAM = { node: '/usr/bin/node', script: '/app/report.mjs' } as const;

/** Says over HTTP that it started, after using both packages: an answer that only right bytes can give. */
const SCRIPT = `
import ts from 'typescript';
import { parse } from 'yaml';

const { outputText } = ts.transpileModule('const answer: number = 6 * 7; answer;', {});
const answer = eval(outputText);
const yaml = parse('hello: [from, ' + process.version + ']');
await fetch(process.argv[2], { method: 'POST', body: JSON.stringify({ answer, yaml }) });
`;

/**
 * Fills a folder with a small root file system: the running Node, the libraries that it needs, two packages and a script.
 * About 160 MB, all of it from this machine.
 */
export async function buildRootfs(dir: string): Promise<void> {
  const node = await realpath(process.execPath);
  await install(node, join(dir, PROGRAM.node));
  for (const library of await librariesOf(node)) {
    await install(await realpath(library), join(dir, library));
  }
  const modules = join(dir, 'app', 'node_modules');
  for (const name of PACKAGES) {
    const source = packageFolder(name);
    await cp(source, join(modules, name), { recursive: true, dereference: true });
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

function packageFolder(name: string): string {
  let folder = dirname(fileURLToPath(import.meta.resolve(name)));
  while (basename(dirname(folder)) !== 'node_modules') folder = dirname(folder);
  return folder;
}
