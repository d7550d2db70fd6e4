declare const digestBrand: unique symbol;

/** `sha256:` and 64 lower-case hex digits: the name of a blob. Made by `parseDigest()` alone. */
export type Digest = string & { readonly [digestBrand]: true };

const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** The digest, or undefined when the text is not one. Only sha256 exists in practice. */
export function parseDigest(text: string): Digest | undefined {
  return DIGEST.test(text) ? (text as Digest) : undefined;
}

/** The 64 hex digits of a digest. */
export function digestHex(digest: Digest): string {
  return digest.slice('sha256:'.length);
}
