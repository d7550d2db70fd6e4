import { posix } from 'node:path';
import { readPart } from '../../image/byte-source.ts';
import { ceilTo } from '../../image/binary.ts';
import { ImageError } from '../../image/errors.ts';
import { readTarHeader } from '../../image/tar.ts';
import { ConvertError } from '../errors.ts';
import { LocalFile, withFile } from '../files.ts';
import type { ImageFiles, OpenFile } from './layout-files.ts';

const RECORD_BYTES = 512;

/** Files of one archive; an image has some hundred. */
const FILES_MAX = 100_000;

/** Of the long names and attributes of one file. */
const ATTRIBUTES_BYTES_MAX = 1024 * 1024;

/** Links that lead to links. */
const LINKS_MAX = 8;

/** Where a file lies in an archive, or where a link leads. */
type Place = { readonly offset: number; readonly sizeBytes: number } | { readonly link: string };

/** The files of a tar archive on disk, which is not compressed. */
export class TarFiles implements ImageFiles {
  readonly path: string;
  readonly #places: ReadonlyMap<string, Place>;

  private constructor(path: string, places: ReadonlyMap<string, Place>) {
    this.path = path;
    this.#places = places;
  }

  /** Reads the names in the archive. Throws ConvertError, or the signal's reason. */
  static async open(path: string, signal: AbortSignal): Promise<TarFiles> {
    try {
      return new TarFiles(path, await withFile(path, 'read', (file) => placesIn(file, signal)));
    } catch (cause) {
      if (!(cause instanceof ImageError)) throw cause;
      const what = `${path} is no tar archive, or a damaged one: ${cause.message}`;
      const advice = 'undo its compression, if it has one, or save the image again';
      throw new ConvertError(`${what}; ${advice}`, { code: 'archive', path }, { cause });
    }
  }

  has(path: string): boolean {
    return this.#find(path) !== undefined;
  }

  async open(path: string): Promise<OpenFile | undefined> {
    const place = this.#find(path);
    if (place === undefined) return undefined;
    const file = await LocalFile.open(this.path, 'read');
    const { offset: base, sizeBytes } = place;
    return {
      sizeBytes,
      read: (offset, length) => readPart(file, base + offset, length, path),
      close: () => file.close(),
    };
  }

  #find(path: string): { readonly offset: number; readonly sizeBytes: number } | undefined {
    let name = posix.normalize(path);
    for (let links = 0; links <= LINKS_MAX; links++) {
      const place = this.#places.get(name);
      if (place === undefined || 'offset' in place) return place;
      name = place.link;
    }
    return undefined;
  }
}

/** What stands in front of an entry and holds for it. */
interface Attributes {
  path?: string;
  linkpath?: string;
  size?: number;
}

async function placesIn(file: LocalFile, signal: AbortSignal): Promise<Map<string, Place>> {
  const places = new Map<string, Place>();
  let ahead: Attributes = {};
  for (let offset = 0; offset + RECORD_BYTES <= file.sizeBytes; ) {
    signal.throwIfAborted();
    if (isEnd(await readPart(file, offset, RECORD_BYTES, 'tar header'))) break;
    const header = await readTarHeader(file, offset);
    offset += RECORD_BYTES;
    const { type } = header;
    const sizeBytes = ahead.size ?? header.sizeBytes;
    if ('xLK'.includes(type)) {
      ahead = { ...ahead, ...(await attributesAt(file, offset, header)) };
    } else if (type !== 'g') {
      const name = posix.normalize(ahead.path ?? header.name);
      const link = ahead.linkpath ?? header.linkName;
      if (type === '0' || type === '\0' || type === '7') places.set(name, { offset, sizeBytes });
      else if (type === '1') places.set(name, { link: posix.normalize(link) });
      else if (type === '2') places.set(name, { link: posix.join(posix.dirname(name), link) });
      if (places.size > FILES_MAX) throw tooMany(file);
      ahead = {};
    }
    offset += ceilTo(sizeBytes, RECORD_BYTES);
    if (offset > file.sizeBytes) throw cutOff(file);
  }
  return places;
}

async function attributesAt(
  file: LocalFile,
  offset: number,
  { type, sizeBytes }: { readonly type: string; readonly sizeBytes: number },
): Promise<Attributes> {
  if (sizeBytes > ATTRIBUTES_BYTES_MAX) throw tooMany(file);
  const bytes = await readPart(file, offset, sizeBytes, 'tar attributes');
  const text = (part: Uint8Array): string => new TextDecoder().decode(part);
  if (type === 'L') return { path: text(bytes).replace(/\0.*$/s, '') };
  if (type === 'K') return { linkpath: text(bytes).replace(/\0.*$/s, '') };
  const found: Attributes = {};
  // Records: `LENGTH KEY=VALUE\n`, the length that of all of it.
  for (let at = 0; at < bytes.length; ) {
    const length = Number(/^([0-9]{1,7}) /.exec(text(bytes.subarray(at, at + 8)))?.[1] ?? 0);
    if (length < 5 || at + length > bytes.length) break;
    const record = text(bytes.subarray(at, at + length - 1)).replace(/^[0-9]+ /, '');
    const equals = record.indexOf('=');
    const [key, value] = [record.slice(0, equals), record.slice(equals + 1)];
    if (key === 'path' || key === 'linkpath') found[key] = value;
    if (key === 'size' && /^[0-9]{1,15}$/.test(value)) found.size = Number(value);
    at += length;
  }
  return found;
}

function isEnd(record: Uint8Array): boolean {
  return record.every((byte) => byte === 0);
}

function tooMany({ path }: LocalFile): ConvertError {
  const what = `${path} has more than ${FILES_MAX} files, or names of more than 1 MiB`;
  return new ConvertError(`${what}: it is no archive of images`, { code: 'archive', path });
}

function cutOff({ path }: LocalFile): ConvertError {
  const what = `${path} ends within a file: it was cut off; save the image again`;
  return new ConvertError(what, { code: 'archive', path });
}
