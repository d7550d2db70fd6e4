import koffi from 'koffi';

const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** From lseek(2) when no data follows. */
const NONE = -1;

const lseek = koffi.load(null).func('int64_t lseek(int fd, int64_t offset, int whence)');

/**
 * The ranges of an open file that are no holes, in bytes, ascending. A file system that knows no
 * holes has the whole file as one range.
 */
export function* dataRanges(fd: number): Generator<{ offset: number; length: number }> {
  for (let offset = 0; ; ) {
    const start = Number(lseek(fd, offset, SEEK_DATA));
    if (start === NONE) return;
    const end = Number(lseek(fd, start, SEEK_HOLE));
    yield { offset: start, length: end - start };
    offset = end;
  }
}
