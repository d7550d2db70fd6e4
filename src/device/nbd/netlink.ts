/**
 * Messages of generic netlink, as far as attaching NBD devices needs them: structures of the
 * kernel's netlink.h and genetlink.h. Integers are in host byte order, which is little-endian
 * wherever Node runs on Linux today.
 *
 *     message    length u32 | type u16 | flags u16 | sequence u32 | port u32
 *                command u8 | version u8 | reserved u16 | attributes
 *     attribute  length u16 | type u16 | value, padded to 4 bytes
 *     error      length u32 | type 2   | ...                      | -errno i32 | the request
 */
const MESSAGE_HEADER_BYTES = 16;
const GENERIC_HEADER_BYTES = 4;
const ATTRIBUTE_HEADER_BYTES = 4;

const TYPE_ERROR = 2;
const FLAG_REQUEST = 1;
const FLAG_ACK = 4;
const FLAG_NESTED = 0x8000;

/** A value of an attribute: a number with its width, a text with its 0, or attributes. */
type AttributeValue =
  | { readonly u32: number }
  | { readonly u64: number }
  | { readonly text: string }
  | { readonly nested: readonly Attribute[] };

/** An attribute: its type, and its value. */
export type Attribute = readonly [type: number, value: AttributeValue];

/** What the kernel says in answer to a request. */
export type NetlinkAnswer =
  /** 0 when the request was carried out. */
  | { readonly kind: 'result'; readonly errno: number }
  /** Values of the attributes at the top, by type. */
  | { readonly kind: 'reply'; readonly attributes: ReadonlyMap<number, Uint8Array> };

/** A request that the kernel answers with a result. */
export function encodeRequest(
  family: number,
  command: number,
  version: number,
  attributes: readonly Attribute[],
): Uint8Array {
  const body = encodeAttributes(attributes);
  const bytes = Buffer.alloc(MESSAGE_HEADER_BYTES + GENERIC_HEADER_BYTES + body.length);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(family, 4);
  bytes.writeUInt16LE(FLAG_REQUEST | FLAG_ACK, 6);
  bytes.writeUInt32LE(1, 8);
  bytes.writeUInt8(command, MESSAGE_HEADER_BYTES);
  bytes.writeUInt8(version, MESSAGE_HEADER_BYTES + 1);
  bytes.set(body, MESSAGE_HEADER_BYTES + GENERIC_HEADER_BYTES);
  return bytes;
}

/** The answers in one datagram of the kernel; stops at bytes that are no message. */
export function decodeAnswers(datagram: Uint8Array): NetlinkAnswer[] {
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.length);
  const answers: NetlinkAnswer[] = [];
  let at = 0;
  while (at + MESSAGE_HEADER_BYTES + 4 <= datagram.length) {
    const length = view.getUint32(at, true);
    if (length < MESSAGE_HEADER_BYTES + 4 || at + length > datagram.length) break;
    if (view.getUint16(at + 4, true) === TYPE_ERROR) {
      answers.push({ kind: 'result', errno: 0 - view.getInt32(at + MESSAGE_HEADER_BYTES, true) });
    } else {
      const from = at + MESSAGE_HEADER_BYTES + GENERIC_HEADER_BYTES;
      const attributes = decodeAttributes(datagram.subarray(from, at + length));
      answers.push({ kind: 'reply', attributes });
    }
    at += padded(length);
  }
  return answers;
}

function encodeAttributes(attributes: readonly Attribute[]): Uint8Array {
  return Buffer.concat(
    attributes.map(([type, value]) => {
      const content = encodeValue(value);
      const length = ATTRIBUTE_HEADER_BYTES + content.length;
      const bytes = Buffer.alloc(padded(length));
      bytes.writeUInt16LE(length, 0);
      bytes.writeUInt16LE('nested' in value ? type | FLAG_NESTED : type, 2);
      bytes.set(content, ATTRIBUTE_HEADER_BYTES);
      return bytes;
    }),
  );
}

function encodeValue(value: AttributeValue): Uint8Array {
  if ('nested' in value) return encodeAttributes(value.nested);
  if ('text' in value) return Buffer.from(`${value.text}\0`);
  if ('u32' in value) {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value.u32);
    return bytes;
  }
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value.u64));
  return bytes;
}

function decodeAttributes(bytes: Uint8Array): ReadonlyMap<number, Uint8Array> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const attributes = new Map<number, Uint8Array>();
  let at = 0;
  while (at + ATTRIBUTE_HEADER_BYTES <= bytes.length) {
    const length = view.getUint16(at, true);
    if (length < ATTRIBUTE_HEADER_BYTES || at + length > bytes.length) break;
    const type = view.getUint16(at + 2, true) & ~FLAG_NESTED;
    attributes.set(type, bytes.subarray(at + ATTRIBUTE_HEADER_BYTES, at + length));
    at += padded(length);
  }
  return attributes;
}

/** The next multiple of 4. */
function padded(length: number): number {
  return Math.ceil(length / 4) * 4;
}
