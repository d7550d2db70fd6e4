import { assert } from '../../util/assert.ts';
import { ConvertError } from '../errors.ts';
import { ByteQueue } from './byte-queue.ts';
import { checkedName, parsePax, paxNumber, paxTime, PaxRecords } from './pax.ts';
import { dataBytesOf, oldGnuSparse, paxSparse, sparseName, type SparseMap } from './sparse.ts';
import {
  HEADER_BYTES_MAX,
  TAR_LIMITS,
  type ByteString,
  type TarEntry,
  type TarEntryType,
  type TarItem,
  type TarLimits,
} from './tar-entry.ts';
import { BLOCK_BYTES, byteString, isZeroBlock, parseHeader, type TarHeader } from './tar-header.ts';
import type { TarInput } from './tar-input.ts';
import { TarPlace } from './tar-place.ts';

const ID_MAX = 2 ** 32 - 1;
const NO_RUNS: TarEntry['dataRuns'] = [];
const NO_XATTRS: TarEntry['xattrs'] = new Map();

/** Types by flag. GNU's `S` is a sparse file, its `D` a directory with a list of its files. */
const TYPES: Readonly<Record<string, TarEntryType>> = {
  '\0': 'file',
  '0': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character-device',
  '4': 'block-device',
  '5': 'directory',
  '6': 'fifo',
  '7': 'file',
  S: 'file',
  D: 'directory',
};

/** Types with data behind the header. As in Go, the others have none, whatever their size says. */
const DATA_FLAGS: ReadonlySet<string> = new Set(['\0', '0', '7', 'S', 'D']);

/**
 * Reads the entries of a tar archive in their order: v7, ustar, PAX, GNU and star. Chunks that came
 * in are handed on in parts, so the source must not use them again. Bytes behind the end of the
 * archive are read and dropped. Throws ConvertError, the signal's reason, and what the source
 * throws.
 */
export async function* readTar(
  chunks: AsyncIterable<Uint8Array>,
  options: { limits?: TarLimits; signal?: AbortSignal } = {},
): AsyncGenerator<TarItem, void> {
  const { limits = TAR_LIMITS, signal } = options;
  const queue = new ByteQueue(chunks, { bytesMax: limits.archiveBytesMax, signal });
  try {
    yield* tarItems(queue, limits);
    while (await queue.fill());
  } finally {
    await queue.close();
  }
}

/**
 * The entries of an archive. With each of them the input stands at its data, as `readTar()` reads
 * it. Throws ConvertError, and what the input throws.
 */
export async function* tarItems(
  input: TarInput,
  { entryCountMax }: Pick<TarLimits, 'entryCountMax'>,
): AsyncGenerator<TarItem, void> {
  const members = new MemberReader(input);
  for (let count = 1; ; count++) {
    const member = await members.next();
    if (member === undefined) return;
    if (count > entryCountMax) {
      throw new ConvertError(
        `cannot read the tar archive: it has more than ${entryCountMax} entries`,
        { code: 'too-large', value: count },
      );
    }
    const content = new Content(input, member);
    yield { entry: member.entry, content };
    if (content.finish() > 0) await content.skip();
  }
}

/** An entry, and the data behind its headers. */
interface Member {
  readonly entry: TarEntry;
  readonly place: TarPlace;
  readonly dataBytes: number;
  /** Bytes behind the data, up to the next header. */
  readonly paddingBytes: number;
}

/** The data of one entry, while the input stands there. */
class Content implements AsyncIterable<Uint8Array> {
  readonly #input: TarInput;
  readonly #member: Member;
  #left: number;
  #isOver = false;

  constructor(input: TarInput, member: Member) {
    this.#input = input;
    this.#member = member;
    this.#left = member.dataBytes;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      assert(!this.#isOver || this.#left === 0, 'content of a tar entry is read too late');
      if (this.#left === 0) return;
      const piece = this.#input.takeSome(this.#left);
      this.#left -= piece.length;
      if (piece.length > 0) yield piece;
      else if (!(await this.#input.fill())) throw truncated(this.#member.place);
    }
  }

  /** Ends the reading; returns the count of bytes to skip. */
  finish(): number {
    this.#isOver = true;
    return this.#left + this.#member.paddingBytes;
  }

  async skip(): Promise<void> {
    const { place, paddingBytes } = this.#member;
    this.#isOver = true;
    if (!(await this.#input.skip(this.#left))) throw truncated(place);
    // Some writers (umoci) end an archive with the last byte of data, and Go reads that.
    await this.#input.read(paddingBytes);
  }
}

/** What the headers in front of an entry's own say of it. */
interface Extras {
  readonly place: TarPlace;
  headerBytes: number;
  pax?: PaxRecords;
  longPath?: ByteString;
  longLink?: ByteString;
}

/** Reads all headers of one entry after the other. */
class MemberReader {
  readonly #input: TarInput;
  readonly #globals = new PaxRecords();

  constructor(input: TarInput) {
    this.#input = input;
  }

  /** The next entry; undefined at the end of the archive. The input stands behind its headers. */
  async next(): Promise<Member | undefined> {
    const extras: Extras = { place: new TarPlace(this.#input.offset), headerBytes: 0 };
    for (;;) {
      const block = this.#input.take(BLOCK_BYTES) ?? (await this.#input.read(BLOCK_BYTES));
      const isEnd = block.length === 0 || (block.length === BLOCK_BYTES && isZeroBlock(block));
      if (isEnd && extras.headerBytes === 0) return undefined;
      if (isEnd || block.length < BLOCK_BYTES) throw truncated(extras.place);
      countHeader(extras, BLOCK_BYTES);
      const header = parseHeader(block, extras.place);
      if (await this.#isExtra(header, extras)) continue;
      return this.#member(header, block, extras);
    }
  }

  /** Whether a header only says more of the entry that follows; then it is read. */
  async #isExtra(header: TarHeader, extras: Extras): Promise<boolean> {
    const { place } = extras;
    switch (header.typeFlag) {
      case 'x':
      case 'X':
        extras.pax = parsePax(await this.#body(header, extras), place);
        return true;
      case 'g':
        this.#globals.merge(parsePax(await this.#body(header, extras), place), place);
        return true;
      case 'L':
        extras.longPath = longName(await this.#body(header, extras), place);
        return true;
      case 'K':
        extras.longLink = longName(await this.#body(header, extras), place);
        return true;
      case 'V':
        await this.#body(header, extras);
        return true;
      default:
        return false;
    }
  }

  async #body(header: TarHeader, extras: Extras): Promise<Uint8Array> {
    const { size } = header;
    const paddedBytes = size + paddingOf(size);
    return (await this.#read(paddedBytes, extras)).subarray(0, size);
  }

  async #read(length: number, extras: Extras): Promise<Uint8Array> {
    countHeader(extras, length);
    const bytes = await this.#input.read(length);
    if (bytes.length < length) throw truncated(extras.place);
    return bytes;
  }

  async #member(header: TarHeader, block: Uint8Array, extras: Extras): Promise<Member> {
    const { place } = extras;
    const records = new EffectiveRecords(extras.pax, this.#globals);
    const path = extras.longPath ?? records.text('path') ?? header.path;
    place.path = path;
    const type = typeOf(header, path, place);
    const physicalBytes = records.number('size', place) ?? header.size;
    const hasData = DATA_FLAGS.has(header.typeFlag);
    const read = (length: number): Promise<Uint8Array> => this.#read(length, extras);
    const sparse =
      type !== 'file'
        ? undefined
        : header.typeFlag === 'S'
          ? await oldGnuSparse(block, read, place)
          : extras.pax && (await paxSparse(extras.pax, read, place));
    const storedBytes = hasData ? physicalBytes - (sparse?.mapBytes ?? 0) : 0;
    if (sparse !== undefined && dataBytesOf(sparse.dataRuns) !== storedBytes) {
      throw place.error(`its sparse map does not describe the ${storedBytes} bytes of its data`);
    }
    const name = (sparse && extras.pax && sparseName(extras.pax)) ?? path;
    place.path = name;
    const entry = entryOf({ header, type, path: name, extras, records, sparse, physicalBytes });
    const dataBytes = type === 'file' ? storedBytes : 0;
    const paddingBytes = paddingOf(storedBytes) + storedBytes - dataBytes;
    return { entry, place, dataBytes, paddingBytes };
  }
}

/** The records of an entry's own header, and behind them the global ones. */
class EffectiveRecords {
  readonly #own: PaxRecords | undefined;
  readonly #globals: PaxRecords;

  constructor(own: PaxRecords | undefined, globals: PaxRecords) {
    this.#own = own;
    this.#globals = globals;
  }

  text(key: ByteString): ByteString | undefined {
    return this.#own?.get(key) ?? this.#globals.get(key);
  }

  number(key: ByteString, place: TarPlace, max?: number): number | undefined {
    const text = this.text(key);
    return text === undefined ? undefined : paxNumber(text, key, place, max);
  }

  time(key: 'mtime' | 'atime' | 'ctime', place: TarPlace): TarEntry['mtime'] | undefined {
    const text = this.text(key);
    return text === undefined ? undefined : paxTime(text, key, place);
  }

  xattrs(): TarEntry['xattrs'] {
    const own = this.#own?.xattrs ?? NO_XATTRS;
    const { xattrs } = this.#globals;
    if (xattrs.size === 0) return own;
    return new Map([...xattrs, ...own]);
  }
}

function entryOf(parts: {
  readonly header: TarHeader;
  readonly type: TarEntryType;
  readonly path: ByteString;
  readonly extras: Extras;
  readonly records: EffectiveRecords;
  readonly sparse: SparseMap | undefined;
  readonly physicalBytes: number;
}): TarEntry {
  const { header, type, records, sparse, extras } = parts;
  const { place } = extras;
  const isLink = type === 'symlink' || type === 'hardlink';
  const isDevice = type === 'character-device' || type === 'block-device';
  const link = extras.longLink ?? records.text('linkpath') ?? header.linkTarget;
  const sizeBytes = type === 'file' ? (sparse?.sizeBytes ?? parts.physicalBytes) : 0;
  const atime = records.time('atime', place) ?? header.atime;
  const ctime = records.time('ctime', place) ?? header.ctime;
  const device = (key: ByteString, own: number): number =>
    isDevice ? (records.number(key, place, ID_MAX) ?? own) : 0;
  return {
    type,
    path: checkedName(parts.path, 'path', place),
    linkTarget: isLink ? checkedName(link, 'link target', place) : '',
    mode: header.mode,
    uid: records.number('uid', place, ID_MAX) ?? header.uid,
    gid: records.number('gid', place, ID_MAX) ?? header.gid,
    mtime: records.time('mtime', place) ?? header.mtime,
    ...(atime && { atime }),
    ...(ctime && { ctime }),
    deviceMajor: device('SCHILY.devmajor', header.deviceMajor),
    deviceMinor: device('SCHILY.devminor', header.deviceMinor),
    xattrs: records.xattrs(),
    sizeBytes,
    dataRuns: sparse?.dataRuns ?? (sizeBytes === 0 ? NO_RUNS : [{ offset: 0, length: sizeBytes }]),
  };
}

function typeOf(header: TarHeader, path: ByteString, place: TarPlace): TarEntryType {
  const { typeFlag } = header;
  const type = TYPES[typeFlag];
  if (type === undefined) {
    const flag = JSON.stringify(typeFlag);
    if (typeFlag === 'M') throw place.error('it continues an entry of another volume');
    throw place.error(`its type ${flag} is not supported`);
  }
  return typeFlag === '\0' && path.endsWith('/') ? 'directory' : type;
}

/** The name in the data of a GNU `L` or `K` header, which ends with a NUL. */
function longName(body: Uint8Array, place: TarPlace): ByteString {
  const end = body.indexOf(0);
  if (end >= 0 && !isZeroBlock(body.subarray(end))) throw place.error('its name has a NUL byte');
  return byteString(body, 0, end < 0 ? body.length : end);
}

function countHeader(extras: Extras, bytes: number): void {
  extras.headerBytes += bytes;
  if (extras.headerBytes > HEADER_BYTES_MAX) {
    throw extras.place.error(`its headers have more than ${HEADER_BYTES_MAX} bytes`);
  }
}

const paddingOf = (bytes: number): number => (BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES;

const truncated = (place: TarPlace): ConvertError => place.error('the archive ends within it');
