import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { ROOT_INODE, type Ext4Reader } from '../../src/convert/check/ext4-reader.ts';
import type { OriginalTree } from '../../src/convert/check/original-tree.ts';
import { toHex } from '../../src/util/bytes.ts';

/** What is to be known of a file; `group` names its hard links: the first of them. */
interface FileFacts {
  readonly type: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: string;
  readonly size: number;
  readonly target: string;
  readonly device: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly group: string;
  readonly sha256: string;
}

/** Facts by path, a character per byte; the root is the empty path. */
export type FolderFacts = Readonly<Record<string, FileFacts>>;

/** Content of larger files is not hashed. */
const HASHED_BYTES_MAX = 2 ** 30;

const PYTHON = String.raw`
import hashlib, json, os, stat, sys
root = os.fsencode(sys.argv[1])
types = {stat.S_IFREG: 'file', stat.S_IFDIR: 'directory', stat.S_IFLNK: 'symlink',
  stat.S_IFCHR: 'character-device', stat.S_IFBLK: 'block-device', stat.S_IFIFO: 'fifo',
  stat.S_IFSOCK: 'socket'}
found, groups, todo = {}, {}, [b'']
while todo:
  path = todo.pop()
  full = root + path
  s = os.lstat(full)
  kind = types[stat.S_IFMT(s.st_mode)]
  text = path.decode('latin1')
  is_device = kind.endswith('device')
  sha256 = ''
  if kind == 'file' and s.st_size <= ${HASHED_BYTES_MAX}:
    with open(full, 'rb') as f:
      h = hashlib.sha256()
      for piece in iter(lambda: f.read(1 << 20), b''): h.update(piece)
      sha256 = h.hexdigest()
  attributes = {os.fsencode(n).decode('latin1'): os.getxattr(full, n, follow_symlinks=False).hex()
    for n in os.listxattr(full, follow_symlinks=False)}
  found[text] = dict(type=kind, mode=stat.S_IMODE(s.st_mode), uid=s.st_uid, gid=s.st_gid,
    mtime='%d.%09d' % divmod(s.st_mtime_ns, 10**9), size=s.st_size if kind == 'file' else 0,
    target=os.readlink(full).decode('latin1') if kind == 'symlink' else '',
    device='%d:%d' % (os.major(s.st_rdev), os.minor(s.st_rdev)) if is_device else '',
    attributes=attributes, group=s.st_ino, sha256=sha256)
  if kind == 'directory': todo += [path + b'/' + n for n in os.listdir(full)]
for path in sorted(found):
  facts = found[path]
  facts['group'] = '' if facts['type'] == 'directory' else groups.setdefault(facts['group'], path)
print(json.dumps(found))
`;

const OUTPUT = { maxBuffer: 1024 * 1024 * 1024 };

/** The files in a folder, as Python and the kernel see them. */
export function factsOfFolder(folder: string): FolderFacts {
  const text = execFileSync('python3', ['-c', PYTHON, folder], OUTPUT);
  return JSON.parse(text.toString()) as FolderFacts;
}

/** The same of a folder whose files this process serves. */
export async function factsOfMount(folder: string): Promise<FolderFacts> {
  const { stdout } = await promisify(execFile)('python3', ['-c', PYTHON, folder], OUTPUT);
  return JSON.parse(stdout) as FolderFacts;
}

/** Runs statements of Python in a folder. */
export function python(folder: string, program: string): void {
  const text = `import os, stat, struct\nbase = os.fsencode(os.getcwd())\n${program}`;
  execFileSync('python3', ['-c', text], { cwd: folder });
}

/** The files in an ext4 file system, as the reader sees them. */
export async function factsOfExt4(reader: Ext4Reader): Promise<FolderFacts> {
  const found: Record<string, FileFacts> = {};
  const numbers: Record<string, number> = {};
  const todo: [string, number][] = [['', ROOT_INODE]];
  for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
    const [path, number] = next;
    const inode = await reader.inode(number);
    const { type, mode, uid, gid, mtime, sizeBytes, deviceMajor, deviceMinor } = inode;
    const attributes = [...(await reader.attributes(inode))];
    numbers[path] = number;
    found[path] = {
      ...{ type, mode, uid, gid },
      mtime: timeText(mtime),
      size: type === 'file' ? sizeBytes : 0,
      target: type === 'symlink' ? await reader.linkTarget(inode) : '',
      device: type.endsWith('device') ? `${deviceMajor}:${deviceMinor}` : '',
      attributes: Object.fromEntries(attributes.map(([name, value]) => [name, toHex(value)])),
      group: type === 'directory' ? '' : path,
      sha256: type === 'file' ? await sha256Of(reader, number) : '',
    };
    if (type !== 'directory') continue;
    for await (const entry of reader.entries(inode)) {
      todo.push([`${path}/${entry.name}`, entry.inode]);
    }
  }
  return grouped(found, numbers);
}

/** The files of a tree. Content has no sha256 there. */
export function factsOfTree(tree: OriginalTree): FolderFacts {
  const found: Record<string, FileFacts> = {};
  const numbers: Record<string, number> = {};
  const todo: [string, number][] = [['', tree.root]];
  for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
    const [path, id] = next;
    const { type, mode, uid, gid, mtime, sizeBytes } = tree.inodes.facts(id);
    const { major, minor } = tree.inodes.device(id);
    const attributes = [...tree.inodes.attributes(id)];
    numbers[path] = id;
    found[path] = {
      ...{ type, mode, uid, gid },
      mtime: timeText(mtime),
      size: type === 'file' ? sizeBytes : 0,
      target: tree.inodes.target(id),
      device: type.endsWith('device') ? `${major}:${minor}` : '',
      attributes: Object.fromEntries(attributes.map(([name, value]) => [name, toHex(value)])),
      group: type === 'directory' ? '' : path,
      sha256: '',
    };
    for (const [name, child] of tree.children(id)) todo.push([`${path}/${name}`, child]);
  }
  return grouped(found, numbers);
}

const timeText = (time: { readonly seconds: number; readonly nanoseconds: number }): string =>
  `${time.seconds}.${String(time.nanoseconds).padStart(9, '0')}`;

async function sha256Of(reader: Ext4Reader, number: number): Promise<string> {
  const inode = await reader.inode(number);
  if (inode.sizeBytes > HASHED_BYTES_MAX) return '';
  const hash = createHash('sha256');
  let at = 0;
  for await (const { offset, bytes } of reader.content(inode)) {
    hash.update(new Uint8Array(offset - at));
    hash.update(bytes);
    at = offset + bytes.length;
  }
  hash.update(new Uint8Array(inode.sizeBytes - at));
  return hash.digest('hex');
}

function grouped(
  found: Readonly<Record<string, FileFacts>>,
  numbers: Readonly<Record<string, number>>,
): FolderFacts {
  const firsts = new Map<number | undefined, string>();
  const all: Record<string, FileFacts> = {};
  for (const path of Object.keys(found).sort()) {
    const facts = found[path];
    if (facts === undefined) continue;
    const number = numbers[path];
    if (!firsts.has(number)) firsts.set(number, path);
    const group = facts.type === 'directory' ? '' : (firsts.get(number) ?? '');
    all[path] = { ...facts, group };
  }
  return all;
}
