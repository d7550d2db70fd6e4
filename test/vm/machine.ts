import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { DEBIAN_CACHE } from '../kit/debian-packages.ts';

/** A kernel and the folder of its modules. */
export interface GuestKernel {
  readonly image: string;
  readonly modules: string;
}

/** Modules that the machine needs: its disk, and the driver under test. */
const MODULES = ['virtio_pci', 'virtio_blk', 'nbd', 'ext4', 'erofs'];

const BUSYBOX = existsSync('/bin/busybox') ? '/bin/busybox' : '/usr/bin/busybox';

/** Programs that the tests start; the others are those of busybox. */
const TOOLS = ['sbin/mke2fs', 'bin/mkfs.erofs', 'bin/diff', 'bin/cmp', 'bin/dd'].map(
  (path) => `/usr/${path}`,
);

/** Test files that use the driver; what needs more than the machine has skips itself. */
const TESTS = ['backends', 'nbd-mounts', 'keeper'].map(
  (name) => `test/device/${name}.system.test.ts`,
);

/** The machine takes some thirty times as long as its host. */
const VITEST = [
  ...['node_modules/vitest/vitest.mjs', 'run', '--project', 'system', '-t', 'NBD'],
  ...['--reporter', 'verbose', '--no-file-parallelism', '--testTimeout', '300000', ...TESTS],
];

/** Packages that no test imports, and that are large. */
const LEFT_OUT = new Set([
  'node',
  '@biomejs',
  'typescript',
  '@typescript-eslint',
  'eslint',
  'knip',
]);

const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t ext4 /dev/vda /root
mount -t tmpfs tmpfs /root/tmp
for folder in proc sys dev; do mount -o bind /$folder /root/$folder; done
export PATH=/usr/sbin:/usr/bin:/bin HOME=/tmp CI=1 NO_COLOR=1
export NODE_COMPILE_CACHE=/tmp/compiled XYLEM_TEST_SLOWNESS=20
ip link set lo up
chroot /root /node --no-warnings /xylem/test/vm/guest.ts /fs.ext4 /sums.json
echo "guest ended with $?"
chroot /root /bin/sh -c 'cd /xylem && exec /node ${VITEST.join(' ')}'
echo "tests ended with $?"
reboot -f
`;

/** Debian's cloud kernel, of the package in the cache of the tests; fetches it if it lacks. */
export function cloudKernel(): GuestKernel {
  const [name = ''] = /linux-image-\S+-cloud-amd64/.exec(
    execFileSync('apt-cache', ['depends', 'linux-image-cloud-amd64'], { encoding: 'utf8' }),
  ) ?? [''];
  const folder = join(DEBIAN_CACHE, name);
  const version = name.replace('linux-image-', '');
  const kernel = {
    image: join(folder, 'boot', `vmlinuz-${version}`),
    modules: join(folder, 'lib/modules', version),
  };
  if (existsSync(join(kernel.modules, 'modules.dep'))) return kernel;
  mkdirSync(folder, { recursive: true });
  execFileSync('apt-get', ['download', '-qq', name], { cwd: folder, stdio: 'pipe' });
  const [file = ''] = readdirSync(folder).filter((each) => each.endsWith('.deb'));
  execFileSync('dpkg', ['-x', join(folder, file), folder]);
  execFileSync(BUSYBOX, ['depmod', '-b', folder, version]);
  return kernel;
}

/** Writes the first file system of the machine, with its modules in the order of their needs. */
export function makeInitramfs(folder: string, kernel: GuestKernel): string {
  const root = join(folder, 'initramfs');
  for (const path of ['bin', 'modules']) mkdirSync(join(root, path), { recursive: true });
  cpSync(BUSYBOX, join(root, 'bin/busybox'), { dereference: true });
  const order = modulesInOrder(kernel.modules).map((path) => {
    const name = path.replaceAll('/', '_');
    cpSync(join(kernel.modules, path), join(root, 'modules', name));
    return name;
  });
  writeFileSync(join(root, 'modules/order'), order.join('\n'));
  writeFileSync(join(root, 'init'), INIT);
  chmodSync(join(root, 'init'), 0o755);
  const file = join(folder, 'initramfs.cpio');
  execFileSync('sh', ['-c', `find . | ${BUSYBOX} cpio -o -H newc > ${file}`], {
    cwd: root,
    stdio: 'pipe',
  });
  return file;
}

/** Paths of the modules and all that they need, which come first. */
function modulesInOrder(modules: string): string[] {
  const lines = readFileSync(join(modules, 'modules.dep'), 'utf8').split('\n');
  const needs = new Map(
    lines.map((line) => {
      const [path = '', rest = ''] = line.split(':');
      return [path, rest.split(' ').filter((each) => each !== '')] as const;
    }),
  );
  const order = new Set<string>();
  const add = (path: string): void => {
    for (const need of needs.get(path) ?? []) add(need);
    order.add(path);
  };
  for (const name of MODULES) {
    // What is built in has no file.
    const path = [...needs.keys()].find((each) => each.endsWith(`/${name}.ko`));
    if (path !== undefined) add(path);
  }
  return [...order];
}

/** Writes the machine's disk: Node with its libraries, the sources, and these files at the top. */
export function makeRoot(folder: string, files: Readonly<Record<string, string>>): string {
  const root = join(folder, 'root');
  const project = new URL('../..', import.meta.url).pathname;
  for (const path of ['proc', 'sys', 'dev', 'tmp']) {
    mkdirSync(join(root, path), { recursive: true });
  }
  const copy = (from: string, to: string): void => {
    mkdirSync(dirname(join(root, to)), { recursive: true });
    cpSync(from, join(root, to), { recursive: true, dereference: true });
  };
  copy(BUSYBOX, 'bin/busybox');
  copy(process.execPath, 'node');
  for (const name of execFileSync(BUSYBOX, ['--list'], { encoding: 'utf8' }).trim().split('\n')) {
    if (name !== 'busybox') symlinkSync('busybox', join(root, 'bin', name));
  }
  for (const tool of TOOLS) copy(tool, tool);
  for (const path of ['src', 'test', 'package.json', 'vitest.config.ts']) {
    copy(join(project, path), join('xylem', path));
  }
  const packages = join(project, 'node_modules');
  for (const name of readdirSync(packages)) {
    if (!LEFT_OUT.has(name) && !name.startsWith('.')) {
      copy(join(packages, name), join('xylem/node_modules', name));
    }
  }
  const names = readdirSync(join(root, 'xylem'), { recursive: true, encoding: 'utf8' });
  const natives = names.filter((name) => name.endsWith('.node'));
  for (const path of librariesOf([
    ...[process.execPath, ...TOOLS],
    ...natives.map((name) => join(root, 'xylem', name)),
  ])) {
    copy(path, path);
  }
  for (const [name, from] of Object.entries(files)) copy(from, name);
  const file = join(folder, 'root.ext4');
  execFileSync('/usr/sbin/mke2fs', [
    '-q',
    '-t',
    'ext4',
    '-O',
    '^has_journal',
    '-d',
    root,
    file,
    '2G',
  ]);
  return file;
}

/** Paths of the libraries that programs and native modules of this machine's kind load. */
function librariesOf(files: readonly string[]): Set<string> {
  const paths = files.flatMap((file) => {
    // It fails for what is of another machine.
    const { stdout } = spawnSync('ldd', [file], { encoding: 'utf8' });
    return [...stdout.matchAll(/(?<=\s)\/\S+(?= \()/g)].map(([path]) => path);
  });
  return new Set(paths);
}

/** Runs the machine until it ends itself, or is late; gives its console, line by line. */
export async function runMachine(
  { image }: GuestKernel,
  { initramfs, disk }: { initramfs: string; disk: string },
  { timeoutMs, onLine }: { timeoutMs: number; onLine: (line: string) => void },
): Promise<void> {
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '2048'],
      ...['-kernel', image, '-initrd', initramfs, '-append', 'console=ttyS0 quiet panic=-1'],
      ...['-drive', `file=${disk},format=raw,if=virtio,snapshot=on`],
      ...['-nographic', '-no-reboot', '-nic', 'none', '-monitor', 'none'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  for await (const line of createInterface({ input: child.stdout })) onLine(line);
  clearTimeout(timer);
}
