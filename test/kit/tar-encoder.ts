import type { ByteString, TarEntry } from '../../src/convert/tar/tar-entry.ts';

/** Fields of a header, as they are to stand there. */
export interface HeaderFields {
  readonly path?: ByteString;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly mtime?: number;
  readonly type?: string;
  readonly linkTarget?: ByteString;
  readonly magic?: 'ustar\x0000' | 'ustar  \0' | '';
  readonly prefix?: ByteString;
  readonly deviceMajor?: number;
  readonly deviceMinor?: number;
  /** Changes the block before its checksum is put in. */
  readonly change?: (block: Uint8Array) => void;
}

/** The end of an archive. */
export const END = new Uint8Array(1024);

/** The bytes of a string with a character per byte. */
export const bytesOf = (text: ByteString): Uint8Array =>
  new Uint8Array(Buffer.from(text, 'latin1'));

/** Parts one after the other. */
export const joined = (...parts: readonly Uint8Array[]): Uint8Array =>
  new Uint8Array(Buffer.concat(parts));

/** Bytes with zeros up to whole blocks. */
export function padded(bytes: Uint8Array): Uint8Array {
  return joined(bytes, new Uint8Array((512 - (bytes.length % 512)) % 512));
}

/** Puts text into a block. */
export function putText(block: Uint8Array, at: number, text: ByteString): void {
  block.set(bytesOf(text), at);
}

/** Puts a number into a field: in octal, or in base 256 where that does not hold it. */
export function putNumber(block: Uint8Array, at: number, length: number, value: number): void {
  if (value >= 0 && value < 8 ** (length - 1)) {
    putText(block, at, `${value.toString(8).padStart(length - 1, '0')}\0`);
    return;
  }
  let rest = BigInt.asUintN(8 * length - 1, BigInt(value));
  for (let i = length - 1; i >= 0; i--) {
    block[at + i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  block[at] = (block[at] ?? 0) | 0x80;
}

/** Puts the sum of the bytes in, as signed or unsigned ones. */
export function putChecksum(block: Uint8Array, isSigned = false): void {
  block.fill(0x20, 148, 156);
  const sum = block.reduce((all, byte) => all + (isSigned && byte > 127 ? byte - 256 : byte), 0);
  putText(block, 148, `${sum.toString(8).padStart(6, '0')}\0 `);
}

/** One header block. */
export function header(fields: HeaderFields): Uint8Array {
  const block = new Uint8Array(512);
  putText(block, 0, (fields.path ?? '').slice(0, 100));
  putNumber(block, 100, 8, fields.mode ?? 0o644);
  putNumber(block, 108, 8, fields.uid ?? 0);
  putNumber(block, 116, 8, fields.gid ?? 0);
  putNumber(block, 124, 12, fields.size ?? 0);
  putNumber(block, 136, 12, fields.mtime ?? 0);
  putText(block, 156, fields.type ?? '0');
  putText(block, 157, (fields.linkTarget ?? '').slice(0, 100));
  putText(block, 257, fields.magic ?? 'ustar\x0000');
  if (fields.deviceMajor !== undefined) putNumber(block, 329, 8, fields.deviceMajor);
  if (fields.deviceMinor !== undefined) putNumber(block, 337, 8, fields.deviceMinor);
  if (fields.prefix !== undefined) putText(block, 345, fields.prefix);
  fields.change?.(block);
  putChecksum(block);
  return block;
}

/** A header and its data. */
export function member(fields: HeaderFields, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  return joined(header({ size: data.length, ...fields }), padded(data));
}

/** One record "LENGTH KEY=VALUE\n". */
function paxRecord(key: ByteString, value: ByteString): Uint8Array {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length;
  while (`${length}${rest}`.length !== length) length = `${length}${rest}`.length;
  return bytesOf(`${length}${rest}`);
}

/** An extended header (type `x`), or a global one (`g`). */
export function pax(
  records: readonly (readonly [key: ByteString, value: ByteString])[],
  type = 'x',
): Uint8Array {
  const body = joined(...records.map(([key, value]) => paxRecord(key, value)));
  return member({ path: 'PaxHeaders/x', type }, body);
}

/** A GNU header with a long name (type `L`), or with the long target of a link (`K`). */
export function gnuLong(type: 'L' | 'K', name: ByteString): Uint8Array {
  return member({ path: '././@LongLink', type, magic: 'ustar  \0' }, bytesOf(`${name}\0`));
}

const TYPE_FLAGS: Readonly<Record<TarEntry['type'], string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  'character-device': '3',
  'block-device': '4',
  directory: '5',
  fifo: '6',
};

/** An entry as writers of PAX make it; every sparse file in version 1.0. */
export function paxMember(entry: TarEntry, data: Uint8Array): Uint8Array {
  const records: [ByteString, ByteString][] = [
    ['path', entry.path],
    ...(entry.linkTarget === '' ? [] : ([['linkpath', entry.linkTarget]] as const).map(pairOf)),
    ['uid', String(entry.uid)],
    ['gid', String(entry.gid)],
    ...(['mtime', 'atime', 'ctime'] as const).flatMap((key): [ByteString, ByteString][] => {
      const time = entry[key];
      return time === undefined ? [] : [[key, timeText(time)]];
    }),
    ...[...entry.xattrs].map(([name, value]): [ByteString, ByteString] => [
      `SCHILY.xattr.${name}`,
      Buffer.from(value).toString('latin1'),
    ]),
  ];
  const isSparse = isWithHoles(entry);
  const map = isSparse ? sparseText(entry) : new Uint8Array(0);
  if (isSparse) {
    records.push(['GNU.sparse.major', '1'], ['GNU.sparse.minor', '0']);
    records.push(['GNU.sparse.name', entry.path]);
    records.push(['GNU.sparse.realsize', String(entry.sizeBytes)]);
  }
  return joined(pax(records), member(plainFields(entry), joined(map, data)));
}

/** An entry as GNU tar makes it: without what that format does not have. */
export function gnuMember(entry: TarEntry, data: Uint8Array): Uint8Array {
  const names = joined(
    entry.path.length > 100 ? gnuLong('L', entry.path) : new Uint8Array(0),
    entry.linkTarget.length > 100 ? gnuLong('K', entry.linkTarget) : new Uint8Array(0),
  );
  const fields = { ...plainFields(entry), uid: entry.uid, gid: entry.gid, magic: 'ustar  \0' };
  const full = { ...fields, mtime: entry.mtime.seconds } as const;
  if (!isWithHoles(entry)) return joined(names, member(full as HeaderFields, data));
  const ranges = [...entry.dataRuns, { offset: entry.sizeBytes, length: 0 }];
  const blocks: Uint8Array[] = [];
  for (let i = 4; i < ranges.length; i += 21) {
    const block = new Uint8Array(512);
    ranges.slice(i, i + 21).forEach((range, k) => putRange(block, 24 * k, range));
    block[504] = i + 21 < ranges.length ? 1 : 0;
    blocks.push(block);
  }
  const change = (block: Uint8Array): void => {
    ranges.slice(0, 4).forEach((range, k) => putRange(block, 386 + 24 * k, range));
    block[482] = blocks.length > 0 ? 1 : 0;
    putNumber(block, 483, 12, entry.sizeBytes);
  };
  const first = header({ ...(full as HeaderFields), type: 'S', size: data.length, change });
  return joined(names, first, ...blocks, padded(data));
}

function plainFields(entry: TarEntry): HeaderFields {
  const { path, linkTarget, mode, deviceMajor, deviceMinor } = entry;
  return { path, linkTarget, mode, deviceMajor, deviceMinor, type: TYPE_FLAGS[entry.type] };
}

const pairOf = ([key, value]: readonly [ByteString, ByteString]): [ByteString, ByteString] => [
  key,
  value,
];

function isWithHoles({ dataRuns, sizeBytes }: TarEntry): boolean {
  return dataRuns.reduce((sum, { length }) => sum + length, 0) !== sizeBytes;
}

function sparseText({ dataRuns, sizeBytes }: TarEntry): Uint8Array {
  const ranges = [...dataRuns, { offset: sizeBytes, length: 0 }];
  const lines = ranges.map(({ offset, length }) => `${offset}\n${length}\n`);
  return padded(bytesOf(`${ranges.length}\n${lines.join('')}`));
}

function putRange(
  block: Uint8Array,
  at: number,
  { offset, length }: TarEntry['dataRuns'][number],
): void {
  putNumber(block, at, 12, offset);
  putNumber(block, at + 12, 12, length);
}

function timeText({ seconds, nanoseconds }: TarEntry['mtime']): string {
  const all = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds);
  const size = all < 0n ? -all : all;
  const fraction = String(size % 1_000_000_000n).padStart(9, '0');
  return `${all < 0n ? '-' : ''}${size / 1_000_000_000n}.${fraction}`;
}
