import { defined } from '../../util/assert.ts';
import { ByteReader } from './byte-reader.ts';
import { ByteWriter } from './byte-writer.ts';
import { WireError, badValue, overLimit } from './errors.ts';

/**
 * How a value stands in a message, declared once for both ways.
 *
 * `read` throws WireError unless the bytes have exactly the form that `write` makes. `field` names
 * the value in errors.
 */
export interface Codec<T> {
  readonly write: (writer: ByteWriter, value: T, field: string) => void;
  readonly read: (reader: ByteReader, field: string) => T;
}

/**
 * Turns one kind of message into bytes and back. `decode` throws WireError unless the bytes are
 * exactly what `encode` makes.
 */
export interface MessageCodec<T> {
  readonly encode: (message: T) => Uint8Array;
  readonly decode: (bytes: Uint8Array) => T;
}

/** A codec for each property of an object, in the order of the wire. */
type Fields<T> = { readonly [K in keyof T]-?: Codec<T[K]> };

/** The members of a union whose tag is `V`, without the tag. */
type CaseOf<T, K extends keyof T, V> = T extends unknown
  ? V extends T[K]
    ? Omit<T, K>
    : never
  : never;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** An unsigned integer of 8 bits. */
export const u8: Codec<number> = { write: (to, value) => to.u8(value), read: (from) => from.u8() };

/** An unsigned integer of 16 bits, little-endian. */
export const u16: Codec<number> = {
  write: (to, value) => to.u16(value),
  read: (from) => from.u16(),
};

/** An unsigned integer of 32 bits, little-endian. */
export const u32: Codec<number> = {
  write: (to, value) => to.u32(value),
  read: (from) => from.u32(),
};

/** A safe integer in 8 bytes. */
export const u64: Codec<number> = {
  write: (writer, value) => writer.u64(value),
  read: (reader, field) => reader.u64(field),
};

/** Yes or no: 1 or 0 (u8). */
export const flag: Codec<boolean> = {
  write: (writer, value) => writer.u8(value ? 1 : 0),
  read: (reader, field) => {
    const value = reader.u8();
    if (value > 1) throw badValue(field, '0 or 1', value);
    return value === 1;
  },
};

/** No bytes at all. */
export const nothing: Codec<void> = { write: () => {}, read: () => {} };

/** Text in UTF-8 behind its length in bytes (u16). */
export function text(bytesMax: number): Codec<string> {
  return {
    write: (writer, value, field) => {
      // Names and addresses: a tenth of the cost of the encoder.
      if (value.length <= bytesMax && isAscii(value)) {
        writer.u16(value.length);
        writer.ascii(value);
        return;
      }
      const encoded = encoder.encode(value);
      if (encoded.length > bytesMax) throw overLimit(field, encoded.length, bytesMax);
      writer.u16(encoded.length);
      writer.raw(encoded);
    },
    read: (reader, field) => {
      const length = reader.u16();
      if (length > bytesMax) throw overLimit(field, length, bytesMax);
      const encoded = reader.raw(length);
      try {
        return decoder.decode(encoded);
      } catch (cause) {
        throw new WireError(`wire field ${field} is not UTF-8`, { code: 'utf8', field }, { cause });
      }
    },
  };
}

function isAscii(value: string): boolean {
  for (let i = 0; i < value.length; i++) if (value.charCodeAt(i) > 0x7f) return false;
  return true;
}

/** Exactly `byteCount` bytes. Reading gives a view of the message, not a copy. */
export function raw(byteCount: number): Codec<Uint8Array> {
  return {
    write: (writer, value) => writer.raw(value),
    read: (reader) => reader.raw(byteCount),
  };
}

/** Exactly `byteCount` bytes, read into memory of their own. */
export function copied(byteCount: number): Codec<Uint8Array> {
  return { ...raw(byteCount), read: (reader) => reader.raw(byteCount).slice() };
}

/** Bytes behind their length (u32); read into memory of their own. */
export function bytes(bytesMax: number): Codec<Uint8Array> {
  return {
    write: (writer, value, field) => {
      if (value.length > bytesMax) throw overLimit(field, value.length, bytesMax);
      writer.u32(value.length);
      writer.raw(value);
    },
    read: (reader, field) => {
      const length = reader.u32();
      if (length > bytesMax) throw overLimit(field, length, bytesMax);
      return reader.raw(length).slice();
    },
  };
}

/** One of a few words, as its place among them (u8). */
export function word<T extends string>(words: readonly T[]): Codec<T> {
  return {
    write: (writer, value) => writer.u8(words.indexOf(value)),
    read: (reader, field) => wordAt(words, reader.u8(), field),
  };
}

/** One of a few words, or the byte `none` in place of an absent one. */
export function optionalWord<T extends string>(
  words: readonly T[],
  none: number,
): Codec<T | undefined> {
  return {
    write: (writer, value) => writer.u8(value === undefined ? none : words.indexOf(value)),
    read: (reader, field) => {
      const at = reader.u8();
      return at === none ? undefined : wordAt(words, at, field);
    },
  };
}

function wordAt<T extends string>(words: readonly T[], at: number, field: string): T {
  const found = words[at];
  if (found === undefined) throw badValue(field, `below ${words.length}`, at);
  return found;
}

/** A value that may be absent, behind a flag. */
export function optional<T>(of: Codec<T>): Codec<T | undefined> {
  return {
    write: (writer, value, field) => {
      flag.write(writer, value !== undefined, field);
      if (value !== undefined) of.write(writer, value, field);
    },
    read: (reader, field) => (flag.read(reader, field) ? of.read(reader, field) : undefined),
  };
}

/** A value that may be absent, for which `none` then stands: it is no value of its own. */
export function absentAs<T>(none: T, of: Codec<T>): Codec<T | undefined> {
  return {
    write: (writer, value, field) => of.write(writer, value ?? none, field),
    read: (reader, field) => {
      const value = of.read(reader, field);
      return value === none ? undefined : value;
    },
  };
}

/** A list behind its count. It grows as its items are read, so that a false count costs nothing. */
export function list<T>(of: Codec<T>, countMax: number, count = u16): Codec<readonly T[]> {
  return {
    write: (writer, items, field) => {
      if (items.length > countMax) throw overLimit(field, items.length, countMax);
      count.write(writer, items.length, field);
      for (const item of items) of.write(writer, item, field);
    },
    read: (reader, field) => {
      const length = count.read(reader, field);
      if (length > countMax) throw overLimit(field, length, countMax);
      const items: T[] = [];
      for (let i = 0; i < length; i++) items.push(of.read(reader, field));
      return items;
    },
  };
}

/** A list of which only the first `countMax` are written: the rest may be missed. */
export function cut<T>(of: Codec<T>, countMax: number, count = u16): Codec<readonly T[]> {
  const all = list(of, countMax, count);
  return {
    write: (writer, items, field) => all.write(writer, items.slice(0, countMax), field),
    read: all.read,
  };
}

/** An object: its properties one after the other. One that is read as undefined is absent. */
export function struct<T extends object>(fields: Fields<T>): Codec<T> {
  const entries = Object.entries(fields) as [string, Codec<unknown>][];
  return {
    write: (writer, value) => {
      const values = value as Readonly<Record<string, unknown>>;
      for (const [key, of] of entries) of.write(writer, values[key], key);
    },
    read: (reader) => {
      const values: Record<string, unknown> = {};
      for (const [key, of] of entries) {
        const value = of.read(reader, key);
        if (value !== undefined) values[key] = value;
      }
      return values as T;
    },
  };
}

/**
 * A union of objects: the word in the property `tag`, as its place among the cases (u8), then the
 * properties of its case.
 */
export function variant<T extends object, K extends keyof T & string>(
  tag: K,
  cases: { readonly [V in T[K] & string]: Fields<CaseOf<T, K, V>> },
): Codec<T> {
  const words = word(Object.keys(cases));
  const entries = Object.entries(cases) as [string, Fields<object>][];
  const structs = new Map(entries.map(([name, fields]) => [name, struct(fields)]));
  const of = (name: string): Codec<object> => defined(structs.get(name), 'a case of the union');
  return {
    write: (writer, value, field) => {
      const name = String(value[tag]);
      words.write(writer, name, tag);
      of(name).write(writer, value, field);
    },
    read: (reader, field) => {
      const name = words.read(reader, tag);
      return { [tag]: name, ...of(name).read(reader, field) } as T;
    },
  };
}

/** Values that `check` takes; it throws WireError at others when they are read. */
export function checked<T>(of: Codec<T>, check: (value: T, field: string) => void): Codec<T> {
  return {
    write: of.write,
    read: (reader, field) => {
      const value = of.read(reader, field);
      check(value, field);
      return value;
    },
  };
}

/** Numbers up to `max`. */
export function atMost(max: number, of: Codec<number>): Codec<number> {
  return checked(of, (value, field) => {
    if (value > max) throw badValue(field, `at most ${max}`, value);
  });
}

/** A whole message of at most `bytesMax`; `firstBytes` as of ByteWriter. */
export function message<T>(
  of: Codec<T>,
  { bytesMax, firstBytes }: { readonly bytesMax: number; readonly firstBytes?: number },
): MessageCodec<T> {
  return {
    encode: (value) => {
      const writer = new ByteWriter(bytesMax, firstBytes);
      of.write(writer, value, 'message');
      return writer.finish();
    },
    decode: (received) => {
      if (received.length > bytesMax) throw overLimit('message', received.length, bytesMax);
      const reader = new ByteReader(received);
      const value = of.read(reader, 'message');
      reader.end();
      return value;
    },
  };
}
