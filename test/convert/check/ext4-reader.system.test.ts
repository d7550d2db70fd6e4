import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Ext4Reader } from '../../../src/convert/check/ext4-reader.ts';
import { LocalFile } from '../../../src/convert/files.ts';
import { memorySource } from '../../../src/image/byte-source.ts';
import { ImageError } from '../../../src/image/errors.ts';
import { factsOfExt4, factsOfFolder, python, type FolderFacts } from '../../kit/file-trees.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const tools = [needs.program('mke2fs'), needs.program('python3')];

/** Files of many kinds; none that mke2fs gets wrong: with inline data it loses zeros at the end. */
const FILES = String.raw`
for size in (0, 1, 59, 60, 61, 155, 160, 4095, 4096, 4097, 12345678):
  data = bytes(i * 31 % 251 for i in range(min(size, 100000)))
  open('size-%d' % size, 'wb').write(data * (size // 100000 or 1))
open('zeros', 'wb').write(bytes(100000) + b'x')
with open('sparse', 'wb') as f:
  for i in range(400): f.seek(i * (200 << 10)); f.write(b'data %d' % i)
open('wide', 'wb').write(b'x' * 3000000)
os.makedirs('deep/' + '/'.join(['d%d' % i for i in range(200)]))
os.mkdir('many')
for i in range(3000):
  os.symlink('target-%d' % i, 'many/name of a file that is rather long, number %d' % i)
for length in (1, 58, 59, 60, 61, 200, 900): os.symlink('t' * length, 'link-%d' % length)
os.link('size-4097', 'deep/linked')
names = (b'\xff\xfe', b'line\nbreak', b'back\\slash', b'quote"', b'space ')
for name in names + ('ü'.encode() * 127, b'n' * 255):
  open(base + b'/' + name, 'wb').write(name)
os.mkfifo('fifo')
os.chmod('size-1', 0o6755)
os.chmod('deep', 0o1777)
os.setxattr('size-1', 'user.small', b'v')
os.setxattr('deep', 'user.empty', b'')
os.setxattr('wide', 'user.wide', bytes(range(200)) * 3)
`;

/** Files that root alone makes, and times that mke2fs does not take over. */
const ROOT_FILES = String.raw`
with open('large-sparse', 'wb') as f: f.truncate(5 << 30); f.seek(9 << 29); f.write(b'data')
os.symlink('t' * 4000, 'link-4000')
open('only-zeros', 'wb').write(bytes(100000))
os.link('link-1', 'deep/linked link')
for i in range(10): os.setxattr('size-0', 'user.%d' % i, bytes([i]) * 300)
os.mknod('null', 0o666 | stat.S_IFCHR, os.makedev(1, 3))
os.mknod('disk', 0o660 | stat.S_IFBLK, os.makedev(259, 70000))
os.mknod('large', 0o660 | stat.S_IFCHR, os.makedev(4095, 1048575))
os.chown('size-60', 70000, 4294967294)
os.chown('size-61', 2147483648, 65535)
os.setxattr('size-4096', 'security.capability', struct.pack('<5I', 0x02000001, 1, 0, 0, 0))
os.setxattr('size-4096', 'trusted.thing', b'secret')
acl = [(1, 6, -1), (2, 7, 1000), (4, 4, -1), (8, 1, 2000), (16, 7, -1), (32, 0, -1)]
packed = struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *e) for e in acl)
os.setxattr('size-4097', 'system.posix_acl_access', packed)
os.setxattr('deep', 'system.posix_acl_default', packed)
`;

/** The root of the two differs, and one has `lost+found`. */
function withoutRoot(facts: FolderFacts): FolderFacts {
  const { '': _, '/lost+found': __, ...others } = facts;
  return others;
}

function withoutNanoseconds(facts: FolderFacts): FolderFacts {
  return Object.fromEntries(
    Object.entries(facts).map(([path, each]) => [
      path,
      { ...each, mtime: each.mtime.replace(/\..*/, '') },
    ]),
  );
}

async function read(image: string): Promise<FolderFacts> {
  const file = await LocalFile.open(image, 'read');
  try {
    return await factsOfExt4(await Ext4Reader.open(file));
  } finally {
    await file.close();
  }
}

/** Makes a file system of the folder. */
function makeExt4(image: string, sizeBytes: number, options: readonly string[]): void {
  writeFileSync(image, '');
  truncateSync(image, sizeBytes);
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', ...options, image], {
    env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  });
}

const MIB = 1024 * 1024;

describeWith('Ext4Reader of file systems that mke2fs made', tools, () => {
  it.each([
    ['blocks of 4 KiB', ['-b', '4096']],
    ['blocks of 1 KiB', ['-b', '1024', '-N', '20000']],
    ['blocks of 64 KiB', ['-b', '65536']],
    ['no 64-bit fields', ['-O', '^64bit,^metadata_csum']],
    ['groups of descriptors', ['-O', 'meta_bg,^resize_inode', '-b', '1024', '-N', '20000']],
    ['data in inodes', ['-O', 'inline_data', '-I', '512']],
    ['attributes in inodes of their own', ['-O', 'ea_inode']],
    ['inodes of 128 bytes', ['-I', '128', '-O', '^64bit']],
  ])('reads the files with %s', async (_, options) => {
    const folder = tempFolder();
    const tree = join(folder, 'tree');
    mkdirSync(tree);
    python(tree, FILES);
    const image = join(folder, 'disk');
    makeExt4(image, 256 * MIB, [...options, '-d', tree]);
    const found = withoutNanoseconds(withoutRoot(await read(image)));
    expect(found).toEqual(withoutNanoseconds(withoutRoot(factsOfFolder(tree))));
  });
});

const kernel = [...tools, needs.root, needs.program('mount')];

describeWith('Ext4Reader of file systems that the kernel wrote', kernel, () => {
  it.each([
    ['usual options', []],
    ['data in inodes, and large attributes', ['-O', 'inline_data,ea_inode', '-I', '512']],
  ])('reads the files with %s', async (_, options) => {
    const folder = tempFolder();
    const [image, mounted] = [join(folder, 'disk'), join(folder, 'mounted')];
    mkdirSync(mounted);
    makeExt4(image, 512 * MIB, options);
    execFileSync('mount', ['-o', 'loop', image, mounted]);
    let wanted: FolderFacts;
    try {
      python(mounted, FILES + ROOT_FILES);
      if (options.some((option) => option.includes('ea_inode'))) {
        python(mounted, "os.setxattr('wide', 'user.large', bytes(range(256)) * 200)");
      }
      python(
        mounted,
        [-2147483648, -1, 0, 2147483647, 2147483648, 15032385535]
          .map(
            (time) =>
              `open('t${time}', 'w'); os.utime('t${time}', ns=(0, ${time} * 10**9 + 987654321))`,
          )
          .join('\n'),
      );
      // Removed names leave gaps behind.
      python(mounted, "[os.unlink('many/' + n) for n in sorted(os.listdir('many'))[::3]]");
      wanted = factsOfFolder(mounted);
    } finally {
      // A container that starts meanwhile has the mount too, and keeps it a little longer.
      execFileSync('mount', ['-o', 'remount,ro', mounted]);
      execFileSync('umount', [mounted]);
    }
    const { '/lost+found': _lost, ...others } = wanted;
    const { '/lost+found': lost, ...found } = await read(image);
    expect(found).toEqual(others);
    expect(lost?.type).toBe('directory');
  });

  it('refuses one that was not unmounted', async () => {
    const folder = tempFolder();
    const [image, copy, mounted] = ['disk', 'copy', 'mounted'].map((name) => join(folder, name));
    mkdirSync(mounted!);
    makeExt4(image!, 64 * MIB, []);
    execFileSync('mount', ['-o', 'loop', image!, mounted!]);
    try {
      python(mounted!, "open('file', 'w').write('x'); os.sync()");
      execFileSync('cp', ['--sparse=always', image!, copy!]);
    } finally {
      execFileSync('umount', [mounted!]);
    }
    await expect(read(copy!)).rejects.toThrow('a journal that was not replayed');
  });
});

describeWith('Ext4Reader of a damaged file system', tools, () => {
  it('gives files or an ImageError, whatever is damaged', async () => {
    const folder = tempFolder();
    const tree = join(folder, 'tree');
    mkdirSync(tree);
    python(
      tree,
      String.raw`
os.makedirs('a/b')
open('a/small', 'w').write('small')
with open('a/sparse', 'wb') as f:
  for i in range(600): f.seek(i * 16384); f.write(b'data')
os.symlink('x' * 100, 'link')
os.setxattr('a/small', 'user.name', b'v' * 200)
for i in range(200): os.symlink('t', 'a/b/a name that fills the directory %d' % i)
`,
    );
    const image = join(folder, 'disk');
    makeExt4(image, 16 * MIB, ['-b', '1024', '-N', '512', '-d', tree]);
    const sound = new Uint8Array(readFileSync(image));
    const used = usedParts(sound);
    const damages = fc.array(
      fc.record({ part: fc.nat(used.length - 1), at: fc.nat(1023), value: fc.nat(255) }),
      { minLength: 1, maxLength: 8 },
    );
    await fc.assert(
      fc.asyncProperty(damages, async (all) => {
        const undo = all.map(({ part, at }) => sound[(used[part] ?? 0) * 1024 + at] ?? 0);
        for (const { part, at, value } of all) sound[(used[part] ?? 0) * 1024 + at] = value;
        await readSome(sound);
        for (const [i, { part, at }] of [...all.entries()].reverse()) {
          sound[(used[part] ?? 0) * 1024 + at] = undo[i] ?? 0;
        }
      }),
      { numRuns: 1500 },
    );
  });
});

/** Blocks that are not zeros; the superblock and the root are among them. */
function usedParts(bytes: Uint8Array): readonly number[] {
  const used: number[] = [];
  for (let block = 0; block < bytes.length / 1024; block++) {
    const part = bytes.subarray(block * 1024, (block + 1) * 1024);
    if (part.some((byte) => byte !== 0)) used.push(block);
  }
  return used;
}

/** Reads all inodes, and what they have. Throws everything but an ImageError. */
async function readSome(bytes: Uint8Array): Promise<void> {
  const isSound = async (work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
    }
  };
  await isSound(async () => {
    const reader = await Ext4Reader.open(memorySource(bytes));
    for (let number = 2; number <= Math.min(600, reader.layout.inodeCount); number++) {
      await isSound(async () => {
        const inode = await reader.inode(number);
        await isSound(async () => void (await reader.attributes(inode)));
        if (inode.type === 'symlink') await reader.linkTarget(inode);
        if (inode.type === 'directory') for await (const _ of reader.entries(inode));
        if (inode.type === 'file') for await (const _ of reader.content(inode));
      });
    }
  });
}
