import { ConvertError } from '../errors.ts';
import type { ByteString } from './tar-entry.ts';

/** Characters of a path that an error shows. */
const SHOWN_PATH_MAX = 200;

/** Where in an archive the reader is: its errors name the entry and the byte. */
export class TarPlace {
  /** Of the entry, as far as it is known. */
  path: ByteString = '';
  /** Of the entry's first header. */
  readonly offset: number;

  constructor(offset: number) {
    this.offset = offset;
  }

  /** The error that says why the entry cannot be read. */
  error(reason: string): ConvertError {
    const { path, offset } = this;
    const entry = path === '' ? 'an entry' : shown(path);
    return new ConvertError(
      `cannot read ${entry} of the tar archive, at byte ${offset}: ${reason}`,
      {
        code: 'tar',
        path,
        offset,
      },
    );
  }
}

/** A path for people: as UTF-8, without control characters, not too long. */
function shown(path: ByteString): string {
  const text = Buffer.from(path.slice(0, SHOWN_PATH_MAX), 'latin1').toString('utf8');
  return JSON.stringify(text) + (path.length > SHOWN_PATH_MAX ? '...' : '');
}
