import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
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
const MODULES = ['virtio_pci', 'virtio_blk', 'nbd', 'ext4'];

const BUSYBOX = existsSync('/bin/busybox') ? '/bin/busybox' : '/usr/bin/busybox';

const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t ext4 -o ro /dev/vda /root
mount -t tmpfs tmpfs /root/tmp
for folder in proc sys dev; do mount -o bind /$folder /root/$folder; done
export PATH=/bin
chroot /root /node --no-warnings /xylem/test/vm/guest.ts /fs.ext4 /sums.json
echo "guest ended with $?"
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
  const libraries = execFileSync('ldd', [process.execPath], { encoding: 'utf8' });
  for (const [path] of libraries.matchAll(/\/\S+/g)) copy(path, path);
  for (const path of ['src/device', 'src/runtime', 'src/util', 'test/vm', 'package.json']) {
    copy(join(project, path), join('xylem', path));
  }
  for (const path of ['koffi', '@koromix']) {
    const from = join(project, 'node_modules', path);
    if (existsSync(from)) copy(from, join('xylem/node_modules', path));
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
    '1G',
  ]);
  return file;
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
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '1024'],
      ...['-kernel', image, '-initrd', initramfs, '-append', 'console=ttyS0 quiet panic=-1'],
      ...['-drive', `file=${disk},format=raw,if=virtio,readonly=on`],
      ...['-nographic', '-no-reboot', '-nic', 'none', '-monitor', 'none'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  for await (const line of createInterface({ input: child.stdout })) onLine(line);
  clearTimeout(timer);
}
