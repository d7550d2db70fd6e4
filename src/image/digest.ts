import type { Hash } from '../runtime/codec.ts';
import { defined } from '../util/assert.ts';
import { toHex } from '../util/bytes.ts';

declare const digestBrand: unique symbol;

/** `sha256:` and 64 lower-case hex digits: the name of a blob. Only this file makes one. */
export type Digest = string & { readonly [digestBrand]: true };

const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** The digest; undefined for any other text. Only sha256 occurs in practice. */
export function parseDigest(text: string): Digest | undefined {
  return DIGEST.test(text) ? (text as Digest) : undefined;
}

/** The digest of these bytes. */
export function digestOf(hash: Pick<Hash, 'sha256'>, bytes: Uint8Array): Digest {
  return digestOfSha256(hash.sha256(bytes));
}

/** The digest whose 32 bytes these are. */
export function digestOfSha256(sha256: Uint8Array): Digest {
  return defined(parseDigest(`sha256:${toHex(sha256)}`), 'a sha256 has 32 bytes');
}

/** The 64 hex digits of a digest. */
export function digestHex(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

/** The 32 bytes of a digest. */
export function digestBytes(digest: Digest): Uint8Array {
  const bytes = new Uint8Array(32);
  for (let i = 0; i < 32; i++) {
    const at = 'sha256:'.length + 2 * i;
    bytes[i] = nibble(digest.charCodeAt(at)) * 16 + nibble(digest.charCodeAt(at + 1));
  }
  return bytes;
}

/** Value of a lower-case hex digit: 0-9 are 48-57, a-f 97-102. */
function nibble(code: number): number {
  return code < 58 ? code - 48 : code - 87;
}
