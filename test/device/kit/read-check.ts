import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/**
 * Compares the content of a mounted tree with the original, by every way in which programs read
 * files; arguments: ORIGINAL MOUNTED SEED. Prints counts as JSON, or ends with the first
 * difference.
 */
const PROGRAM = String.raw`
import errno, json, mmap, os, random, socket, stat, sys, threading
original, mounted, seed = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), int(sys.argv[3])
chosen = random.Random(seed)
counts = {'files': 0, 'reads': 0, 'bytes': 0, 'direct': 0, 'holes': 0}

def same(found, expected, what):
  if found != expected:
    sys.exit('%r: found %.200r, expected %.200r (seed %d)' % (what, found, expected, seed))

found = [os.path.relpath(os.path.join(folder, name), original)
  for folder, _, names in os.walk(original) for name in names]
def is_file(name): return stat.S_ISREG(os.lstat(os.path.join(original, name)).st_mode)
files = [name for name in sorted(found) if is_file(name)]
content = {name: open(os.path.join(original, name), 'rb').read() for name in files}
def opened(name, flags=0): return os.open(os.path.join(mounted, name), os.O_RDONLY | flags)
# What was read before comes from the device again.
def forget(fd): os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
def checked(name, offset, found, length):
  same(found, content[name][offset:offset + length], (name, offset, length))
  counts['reads'] += 1; counts['bytes'] += len(found)
EDGES = [0, 1, 511, 512, 4095, 4096, 4097, 65535, 65537, 131072, 262143, 262145]
def place(random, size):
  edge = random.choice(EDGES)
  at = random.choice([random.randrange(size + 1), edge, size - edge])
  length = random.choice([1, 7, 512, 4096, 4097, 70001, random.randrange(1, 600000)])
  return max(0, at), length

def whole(name, fd):
  os.posix_fadvise(fd, 0, 0, chosen.choice([os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_NORMAL]))
  at = 0
  while True:
    length = chosen.choice([4096, 65536, 100003, 1 << 20])
    found = os.pread(fd, length, at)
    checked(name, at, found, length)
    if not found: break
    at += len(found)
  same(at, len(content[name]), (name, 'size'))

def pieces(name, fd, random=chosen, count=40):
  for _ in range(count):
    at, length = place(random, len(content[name]))
    checked(name, at, os.pread(fd, length, at), length)

def mapped(name, fd):
  how = chosen.choice([mmap.MAP_SHARED, mmap.MAP_PRIVATE])
  with mmap.mmap(fd, 0, prot=mmap.PROT_READ, flags=how) as view:
    for _ in range(40):
      at, length = place(chosen, len(content[name]))
      checked(name, at, view[at:at + length], length)

def ahead(name, fd):
  # The kernel is asked for what lies behind the end, too.
  size = len(content[name])
  for at in [0, max(0, size - 4097), max(0, size - 300000)]:
    os.posix_fadvise(fd, at, 1 << 20, os.POSIX_FADV_WILLNEED)
    checked(name, at, os.pread(fd, 1 << 20, at), 1 << 20)

def direct(name, _):
  try: fd = opened(name, os.O_DIRECT)
  except OSError as error:
    if error.errno != errno.EINVAL: raise
    return # EROFS on a file has none.
  with mmap.mmap(-1, 1 << 20) as room:
    for _ in range(20):
      at, length = place(chosen, len(content[name]))
      at, length = at // 4096 * 4096, -(-length // 4096) * 4096
      part = memoryview(room)[:length]
      count = os.preadv(fd, [part], at)
      checked(name, at, bytes(part[:count]), length)
      part.release()
      counts['direct'] += 1
  os.close(fd)

def sent(name, fd):
  at, length = place(chosen, len(content[name]))
  ours, theirs = socket.socketpair()
  got = []
  def take():
    while data := theirs.recv(65536): got.append(data)
  taker = threading.Thread(target=take); taker.start()
  done = 0
  while done < length:
    count = os.sendfile(ours.fileno(), fd, at + done, length - done)
    if count == 0: break
    done += count
  ours.close(); taker.join(); theirs.close()
  checked(name, at, b''.join(got), length)

def copied(name, fd):
  at, length = place(chosen, len(content[name]))
  with open(os.memfd_create('copy'), 'w+b') as copy:
    done = 0
    while done < length:
      try: count = os.copy_file_range(fd, copy.fileno(), length - done, at + done, done)
      except OSError as error:
        # Between filesystems of two kinds, programs go on with splice.
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP): raise
        count = spliced(fd, copy.fileno(), at + done, done, length - done)
      if count == 0: break
      done += count
    checked(name, at, os.pread(copy.fileno(), length, 0), length)

def spliced(fd, target, at, target_at, length):
  out, into = os.pipe()
  try:
    count = os.splice(fd, into, min(length, 65536), offset_src=at)
    done = 0
    while done < count: done += os.splice(out, target, count - done, offset_dst=target_at + done)
    return count
  finally: os.close(out); os.close(into)

def holes(name, fd):
  size, at = len(content[name]), 0
  while at < size:
    try: data = os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
      if error.errno != errno.ENXIO: raise
      data = size
    same(content[name][at:data].count(0), data - at, (name, 'hole at', at))
    at = size if data == size else os.lseek(fd, data, os.SEEK_HOLE)
  counts['holes'] += size - os.fstat(fd).st_blocks * 512

WAYS = [whole, pieces, mapped, ahead, direct, sent, copied, holes]
for name in files:
  chosen.shuffle(WAYS)
  counts['files'] += 1
  fd = opened(name)
  for way in WAYS:
    if len(content[name]) == 0 and way is not whole: continue
    forget(fd)
    way(name, fd)
  os.close(fd)

failures = []
def reader(number):
  own = random.Random(seed * 100 + number)
  try:
    for _ in range(len(files) * 2):
      name = own.choice(files)
      fd = opened(name)
      if own.random() < 0.5: forget(fd)
      pieces(name, fd, own, 10)
      os.close(fd)
  except BaseException as error: failures.append(str(error))
threads = [threading.Thread(target=reader, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
same(failures, [], 'readers in parallel')
print(json.dumps(counts))
`;

/** What was read, and found to be that of the original. */
export interface ReadCheck {
  readonly files: number;
  readonly reads: number;
  readonly bytes: number;
  /** Reads among them past the page cache. */
  readonly direct: number;
  /** Bytes of files that take no space in their filesystem. */
  readonly holes: number;
}

/** Reads all files of a mounted tree in a process of its own; rejects with the first difference. */
export async function readCheck(
  original: string,
  mounted: string,
  seed: number,
): Promise<ReadCheck> {
  const args = ['-c', PROGRAM, original, mounted, String(seed)];
  const { stdout } = await promisify(execFile)('python3', args);
  return JSON.parse(stdout) as ReadCheck;
}
