import { GIB, KIB, MIB } from '../../util/bytes.ts';

/** A string with one character per byte (latin1): names in archives are bytes, not text. */
export type ByteString = string;

/** What an entry of an archive makes. */
export type TarEntryType =
  | 'file'
  | 'directory'
  | 'symlink'
  | 'hardlink'
  | 'character-device'
  | 'block-device'
  | 'fifo';

/** A time since 1970. `seconds` may be negative; `nanoseconds` is 0 to 999,999,999. */
export interface TarTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** A range of a file that has data. */
export interface DataRun {
  readonly offset: number;
  readonly length: number;
}

/** What an archive says of one file, directory, link or device. */
export interface TarEntry {
  readonly type: TarEntryType;
  /** As in the archive: not cleaned, possibly absolute or with `..`. */
  readonly path: ByteString;
  /** Of symbolic and hard links; else empty. */
  readonly linkTarget: ByteString;
  /** The 12 permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: TarTime;
  readonly atime?: TarTime;
  readonly ctime?: TarTime;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** By full name, such as `security.capability`. */
  readonly xattrs: ReadonlyMap<ByteString, Uint8Array>;
  /** Size of the file, with its holes. */
  readonly sizeBytes: number;
  /** The ranges that the archive has data for, ascending, without overlap; holes are zeros. */
  readonly dataRuns: readonly DataRun[];
}

/** An entry and its data. */
export interface TarItem {
  readonly entry: TarEntry;
  /**
   * The bytes of all dataRuns one after the other, in pieces of the chunks that came in. To be read
   * before the next item is asked for, at most once; what is left unread is skipped.
   */
  readonly content: AsyncIterable<Uint8Array>;
}

/** What a reader takes at most of one archive. */
export interface TarLimits {
  readonly entryCountMax: number;
  /** Bytes of the archive, whatever they are. */
  readonly archiveBytesMax: number;
}

/** The limits of a reader that is given none. */
export const TAR_LIMITS: TarLimits = {
  entryCountMax: 4 * 1024 * 1024,
  archiveBytesMax: 1024 * GIB,
};

/** All headers of one entry: extended headers, long names and the map of a sparse file. */
export const HEADER_BYTES_MAX = MIB;

/** What PAX records say of all later entries: about 1,000 records. */
export const GLOBAL_BYTES_MAX = 256 * KIB;

/** A path or the target of a link: PATH_MAX of Linux. */
export const NAME_BYTES_MAX = 4 * KIB;

/** The name of an extended attribute: XATTR_NAME_MAX of Linux. */
export const XATTR_NAME_BYTES_MAX = 255;

/** The value of an extended attribute: XATTR_SIZE_MAX of Linux. */
export const XATTR_VALUE_BYTES_MAX = 64 * KIB;
