import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  createReadStream,
  ftruncateSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
  writeSync,
  type BigIntStats,
} from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { TarEntry, TarEntryType } from '../../../src/convert/tar/tar-entry.ts';
import { describeWith, FIXTURES, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { readAll, wholeFile, type ReadEntry } from './kit.ts';

/** Names of the tree, as bytes. Formats differ in what they hold. */
const LONG = `${'d'.repeat(120)}/${'n'.repeat(140)}`;
const EVERYWHERE = ['d', 'd/empty', 'd/file', 'd/hard', 'd/link', 'd/sticky', 'd/fifo', 'sparse'];
const BEYOND_V7 = ['d/null', 'd/loop', 'large'];
const ANY_NAME = ['d/long-link', 'd/caf\xc3\xa9 \xff\n=', LONG.split('/')[0] ?? '', LONG];
const BIG_NUMBERS = ['d/old', 'd/owned'];
const ALL = [...EVERYWHERE, ...BEYOND_V7, ...ANY_NAME, ...BIG_NUMBERS];

const XATTRS: Readonly<Record<string, Buffer>> = {
  'security.capability': Buffer.from('0100000202000000000000000000000000000000', 'hex'),
  'user.bytes': Buffer.from('a=b\n12 path=x\n\0\xff', 'latin1'),
  'user.a=b%': Buffer.from('v'),
};

const SET_ATTRIBUTES = `
import json, os, sys
path, names = sys.argv[1], json.loads(sys.argv[2])
for name, value in names.items(): os.setxattr(path, name, bytes.fromhex(value))
`;

/** Writes an archive in each format of tarfile. */
const PYTHON_TAR = `
import json, sys, tarfile
out, form, names = sys.argv[1], getattr(tarfile, sys.argv[2] + '_FORMAT'), json.loads(sys.argv[3])
with tarfile.open(out, 'w', format=form, encoding='utf-8', errors='surrogateescape') as tar:
    for name in names:
        tar.add(name.encode('latin1').decode('utf-8', 'surrogateescape'), recursive=False)
`;

/** What tarfile reads in an archive. */
const PYTHON_LIST = `
import hashlib, json, sys, tarfile
types = {b'0': 'file', b'\\0': 'file', b'1': 'hardlink', b'2': 'symlink', b'3': 'character-device',
    b'4': 'block-device', b'5': 'directory', b'6': 'fifo', b'7': 'file', b'S': 'file'}
latin = lambda text: text.encode('utf-8', 'surrogateescape').decode('latin1')
with tarfile.open(sys.argv[1], 'r', encoding='utf-8', errors='surrogateescape') as tar:
    for entry in tar:
        data = tar.extractfile(entry).read() if entry.isreg() else b''
        print(json.dumps([types[entry.type], latin(entry.name), latin(entry.linkname),
            entry.mode, entry.uid, entry.gid, int(entry.mtime // 1), len(data),
            hashlib.sha256(data).hexdigest()]))
`;

let tree = '';
const nodeOf = (name: string): Buffer => Buffer.from(join(tree, name), 'latin1');

/** Makes the tree that the tools pack. Returns its folder. */
function makeTree(): string {
  const folder = tempFolder();
  tree = folder;
  mkdirSync(nodeOf('d'));
  mkdirSync(nodeOf(LONG.split('/')[0] ?? ''));
  writeFileSync(nodeOf('d/empty'), '');
  writeFileSync(nodeOf('d/file'), 'hello');
  linkSync(nodeOf('d/file'), nodeOf('d/hard'));
  symlinkSync('file', nodeOf('d/link'));
  symlinkSync('t'.repeat(300), nodeOf('d/long-link'));
  mkdirSync(nodeOf('d/sticky'));
  chmodSync(nodeOf('d/sticky'), 0o7755);
  for (const [name, ...node] of [
    ['fifo', 'p'],
    ['null', 'c', '1', '3'],
    ['loop', 'b', '7', '300'],
  ]) {
    execFileSync('mknod', [join(folder, 'd', name ?? ''), ...node]);
  }
  for (const name of ['d/caf\xc3\xa9 \xff\n=', LONG]) writeFileSync(nodeOf(name), name);
  writeFileSync(nodeOf('large'), Buffer.alloc(3_000_001, 'abcdefg'));
  for (const name of ['d/old', 'd/owned']) writeFileSync(nodeOf(name), name);
  lchownSync(nodeOf('d/owned'), 3_000_000_000, 4_000_000_000);
  execFileSync('touch', ['-d', '1960-02-03 04:05:06.789012345 UTC', join(folder, 'd/old')]);
  const sparse = openSync(nodeOf('sparse'), 'w');
  for (let i = 1; i < 40; i += 2) writeSync(sparse, Buffer.alloc(4096, i), 0, 4096, i * 65_536);
  ftruncateSync(sparse, 40 * 65_536 + 17);
  closeSync(sparse);
  const hex = Object.entries(XATTRS).map(([name, value]) => [name, value.toString('hex')]);
  const values = JSON.stringify(Object.fromEntries(hex));
  execFileSync('python3', ['-c', SET_ATTRIBUTES, join(folder, 'large'), values]);
  return folder;
}

/** How a tool stores what formats differ in. */
interface Format {
  readonly names: readonly string[];
  /** Where the tool goes into folders, in an order of its own: what it is given. */
  readonly given?: readonly string[];
  readonly hasNanoseconds?: boolean;
  readonly hasHoles?: boolean;
  readonly hasXattrs?: boolean;
}

/** Packs names of the tree with a program that takes them on its standard input. */
function pack(program: string, args: readonly string[], names: readonly string[]): string {
  const file = join(tempFolder(), 'a.tar');
  const input = Buffer.from(names.map((name) => `${name}\0`).join(''), 'latin1');
  execFileSync(program, [...args, '-cf', file, '-C', tree, '--null', '-T', '-'], {
    input,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  return file;
}

const read = (file: string): Promise<readonly ReadEntry[]> => readAll(createReadStream(file));

async function expectTree(file: string, format: Format): Promise<void> {
  const entries = await read(file);
  const paths = entries.map(({ entry }) => entry.path.replace(/\/$/, ''));
  const isSorted = format.given === undefined;
  expect(isSorted ? paths : [...paths].sort()).toEqual(
    isSorted ? format.names : [...format.names].sort(),
  );
  for (const [i, item] of entries.entries()) expectNode(item, paths[i] ?? '', format);
}

function expectNode(item: ReadEntry, name: string, format: Format): void {
  const { entry } = item;
  const stat = lstatSync(nodeOf(name), { bigint: true });
  const isHard = name === 'd/hard';
  const type = isHard ? 'hardlink' : typeOf(stat);
  const all = stat.mtimeNs;
  const nanoseconds = ((all % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
  const seconds = Number((all - nanoseconds) / 1_000_000_000n);
  const isDevice = type.endsWith('device');
  expect(entry, name).toMatchObject({
    type,
    linkTarget: isHard ? 'd/file' : type === 'symlink' ? latinLink(name) : '',
    mode: Number(stat.mode) & 0o7777,
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    deviceMajor: isDevice ? Number((stat.rdev >> 8n) & 0xfffn) : 0,
    deviceMinor: isDevice ? Number((stat.rdev & 0xffn) | ((stat.rdev >> 12n) & 0xfff00n)) : 0,
  });
  expect(entry.mtime.seconds, name).toBe(seconds);
  if (format.hasNanoseconds === true)
    expect(entry.mtime.nanoseconds, name).toBe(Number(nanoseconds));
  if (type !== 'file') return;
  expect(Buffer.compare(wholeFile(item), readFileSync(nodeOf(name))), name).toBe(0);
  if (name === 'sparse') expect(entry.dataRuns.length).toBe(format.hasHoles === true ? 20 : 1);
  if (name === 'large' && format.hasXattrs === true) expectXattrs(entry);
}

function expectXattrs({ xattrs }: TarEntry): void {
  for (const [key, value] of Object.entries(XATTRS)) {
    expect(Buffer.from(xattrs.get(key) ?? []).toString('hex'), key).toBe(value.toString('hex'));
  }
}

function typeOf(stat: BigIntStats): TarEntryType {
  if (stat.isDirectory()) return 'directory';
  if (stat.isSymbolicLink()) return 'symlink';
  if (stat.isCharacterDevice()) return 'character-device';
  if (stat.isBlockDevice()) return 'block-device';
  return stat.isFIFO() ? 'fifo' : 'file';
}

const latinLink = (name: string): string =>
  readlinkSync(nodeOf(name), { encoding: 'buffer' }).toString('latin1');

const without = (names: readonly string[], ...others: readonly string[]): readonly string[] =>
  names.filter((name) => !others.includes(name));

/** What GNU tar and bsdtar store in a ustar archive: no name that has no place to be cut. */
const USTAR = [...EVERYWHERE, ...BEYOND_V7];
const PAX = { names: ALL, hasNanoseconds: true, hasXattrs: true } as const;
const TOP = [...ALL.filter((name) => !name.includes('/')), 'd/sticky'];
const XATTR_ARGS = ['--xattrs', '--xattrs-include=*'];

describeWith('readTar() reads what GNU tar writes', [needs.root, needs.program('python3')], () => {
  it.each<readonly [string, readonly string[], Format]>([
    ['v7', [], { names: without(EVERYWHERE, 'd/fifo') }],
    ['ustar', [], { names: USTAR }],
    ['oldgnu', [], { names: ALL }],
    ['gnu', [], { names: ALL }],
    ['oldgnu', ['-S'], { names: ALL, hasHoles: true }],
    ['gnu', ['-S'], { names: ALL, hasHoles: true }],
    ['gnu', ['-V', 'label'], { names: ALL }],
    ['gnu', ['--listed-incremental=SNAPSHOT'], { names: ALL, given: TOP }],
    ['pax', ['--listed-incremental=SNAPSHOT'], { ...PAX, given: TOP, hasXattrs: false }],
    ['pax', XATTR_ARGS, PAX],
    ['pax', [...XATTR_ARGS, '-V', 'label'], PAX],
    ['pax', [...XATTR_ARGS, '--sparse-version=0.0', '-S'], { ...PAX, hasHoles: true }],
    ['pax', [...XATTR_ARGS, '--sparse-version=0.1', '-S'], { ...PAX, hasHoles: true }],
    ['pax', [...XATTR_ARGS, '--sparse-version=1.0', '-S'], { ...PAX, hasHoles: true }],
  ])('as %s %j', async (format, args, expected) => {
    makeTree();
    const snapshot = join(tempFolder(), 'snapshot');
    const own = args.map((arg) => arg.replace('SNAPSHOT', snapshot));
    const all = ['--no-recursion', `--format=${format}`, ...own];
    const file = pack('tar', all, expected.given ?? expected.names);
    await expectTree(file, expected);
  });
});

describeWith(
  'readTar() reads what bsdtar writes',
  [needs.root, needs.program('bsdtar'), needs.program('python3')],
  () => {
    // It stores no time before 1970 as others read it: as 0, or with the fraction's sign wrong.
    it.each<readonly [string, Format]>([
      ['v7', { names: without(EVERYWHERE, 'd/fifo') }],
      ['ustar', { names: USTAR }],
      ['gnutar', { names: without(ALL, 'd/old') }],
      ['pax', { ...PAX, names: without(ALL, 'd/old'), hasHoles: true }],
    ])('as %s', async (format, expected) => {
      makeTree();
      const args = ['-n', `--format=${format}`];
      await expectTree(pack('bsdtar', args, expected.names), expected);
    });
  },
);

describeWith('readTar() reads what tarfile writes', [needs.root, needs.program('python3')], () => {
  it.each<readonly [string, Format]>([
    ['USTAR', { names: USTAR }],
    ['GNU', { names: without(ALL, 'd/old') }],
    ['PAX', { names: ALL }],
  ])('as %s', async (format, expected) => {
    const cwd = makeTree();
    const file = join(tempFolder(), 'a.tar');
    const names = JSON.stringify(expected.names);
    execFileSync('python3', ['-c', PYTHON_TAR, file, format, names], { cwd });
    await expectTree(file, expected);
  });
});

describeWith(
  'readTar() reads what busybox writes',
  [needs.root, needs.program('busybox'), needs.program('python3')],
  () => {
    it('as GNU', async () => {
      const cwd = makeTree();
      const names = without(
        ALL,
        'd',
        LONG.split('/')[0] ?? '',
        'd/caf\xc3\xa9 \xff\n=',
        'd/owned',
        'd/old',
      );
      const file = join(tempFolder(), 'a.tar');
      execFileSync('busybox', ['tar', '-cf', file, ...names], { cwd });
      await expectTree(file, { names });
    });
  },
);

describeWith(
  'readTar() reads real layers as tarfile does',
  [needs.fixtures, needs.program('python3')],
  () => {
    it.each(['layer0.tar', 'layer1.tar', 'layer2.tar'])('%s', async (name) => {
      const file = join(FIXTURES, 'tars', name);
      const list = execFileSync('python3', ['-c', PYTHON_LIST, file], { encoding: 'utf8' });
      const expected = list
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as unknown);
      const items = await read(file);
      expect(items.length).toBeGreaterThan(0);
      const found = items.map((item) => {
        const { type, path, linkTarget, mode, uid, gid, mtime, sizeBytes } = item.entry;
        const sha256 = createHash('sha256').update(wholeFile(item)).digest('hex');
        const bare = path.replace(/\/$/, '');
        return [type, bare, linkTarget, mode, uid, gid, mtime.seconds, sizeBytes, sha256];
      });
      expect(found).toEqual(expected);
    });
  },
);
