/** Message authentication by a shared key, injected. */
export interface Mac {
  /** HMAC-SHA-256 (RFC 2104), 32 bytes. */
  hmacSha256(key: Uint8Array, message: Uint8Array): Uint8Array;
  /** Whether two codes are equal, in a time that does not depend on their content. */
  equal(a: Uint8Array, b: Uint8Array): boolean;
}
