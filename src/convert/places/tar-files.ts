import { posix } from 'node:path';
import { readPart } from '../../image/byte-source.ts';
import { ceilTo } from '../../image/binary.ts';
import { ConvertError } from '../errors.ts';
import { LocalFile, withFile } from '../files.ts';
import { parsePax, paxNumber } from '../tar/pax.ts';
import { BLOCK_BYTES, byteString, isZeroBlock, parseHeader } from '../tar/tar-header.ts';
import { TarPlace } from '../tar/tar-place.ts';
import type { ImageFiles, OpenFile } from './layout-files.ts';

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
      if (!(cause instanceof ConvertError) || cause.code !== 'tar') throw cause;
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
  for (let offset = 0; offset + BLOCK_BYTES <= file.sizeBytes; ) {
    signal.throwIfAborted();
    const block = await readPart(file, offset, BLOCK_BYTES, 'tar header');
    if (isZeroBlock(block)) break;
    const place = new TarPlace(offset);
    const header = parseHeader(block, place);
    offset += BLOCK_BYTES;
    const { typeFlag: type } = header;
    const sizeBytes = ahead.size ?? header.size;
    if (offset + sizeBytes > file.sizeBytes) throw cutOff(file);
    if ('xLK'.includes(type)) {
      if (sizeBytes > ATTRIBUTES_BYTES_MAX) throw tooMany(file);
      const bytes = await readPart(file, offset, sizeBytes, 'tar attributes');
      ahead = { ...ahead, ...attributesIn(bytes, type, place) };
    } else if (type !== 'g') {
      const name = posix.normalize(ahead.path ?? header.path);
      const link = ahead.linkpath ?? header.linkTarget;
      if ('07\0'.includes(type)) places.set(name, { offset, sizeBytes });
      else if (type === '1') places.set(name, { link: posix.normalize(link) });
      else if (type === '2') places.set(name, { link: posix.join(posix.dirname(name), link) });
      if (places.size > FILES_MAX) throw tooMany(file);
      ahead = {};
    }
    offset += ceilTo(sizeBytes, BLOCK_BYTES);
  }
  return places;
}

/** Of a PAX header, or of a long name as GNU writes it. */
function attributesIn(bytes: Uint8Array, type: string, place: TarPlace): Attributes {
  if (type !== 'x') {
    const name = byteString(bytes).replace(/\0.*$/s, '');
    return type === 'L' ? { path: name } : { linkpath: name };
  }
  const records = parsePax(bytes, place);
  const [path, linkpath] = [records.get('path'), records.get('linkpath')];
  const size = records.get('size');
  return {
    ...(path !== undefined && { path }),
    ...(linkpath !== undefined && { linkpath }),
    ...(size !== undefined && { size: paxNumber(size, 'size', place) }),
  };
}

function tooMany({ path }: LocalFile): ConvertError {
  const what = `${path} has more than ${FILES_MAX} files, or names of more than 1 MiB`;
  return new ConvertError(`${what}: it is no archive of images`, { code: 'archive', path });
}

function cutOff({ path }: LocalFile): ConvertError {
  const what = `${path} ends within a file: it was cut off; save the image again`;
  return new ConvertError(what, { code: 'archive', path });
}
