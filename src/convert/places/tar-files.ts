import { posix } from 'node:path';
import { readPart } from '../../image/byte-source.ts';
import { ConvertError } from '../errors.ts';
import { LocalFile, withFile } from '../files.ts';
import { tarItems } from '../tar/read-tar.ts';
import { TarFileInput } from '../tar/tar-input.ts';
import type { ImageFiles, OpenFile } from './layout-files.ts';

/** Files of one archive; an image has some hundred. */
const FILES_MAX = 100_000;

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
      if (!(cause instanceof ConvertError)) throw cause;
      if (cause.code === 'too-large') {
        const what = `${path} has more than ${FILES_MAX} files: it is no archive of images`;
        throw new ConvertError(what, { code: 'archive', path }, { cause });
      }
      if (cause.code !== 'tar') throw cause;
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

async function placesIn(file: LocalFile, signal: AbortSignal): Promise<Map<string, Place>> {
  const places = new Map<string, Place>();
  const input = new TarFileInput(file, signal);
  for await (const { entry } of tarItems(input, { entryCountMax: FILES_MAX })) {
    const { type, path, linkTarget: link, sizeBytes, dataRuns } = entry;
    const name = posix.normalize(path);
    if (type === 'hardlink') places.set(name, { link: posix.normalize(link) });
    else if (type === 'symlink') places.set(name, { link: posix.join(posix.dirname(name), link) });
    else if (type === 'file' && (dataRuns[0]?.length ?? 0) === sizeBytes) {
      places.set(name, { offset: input.offset, sizeBytes });
    }
  }
  return places;
}
