/**
 * Compression and checksums, injected, since the real ones are native code. All calls are
 * synchronous and run on the calling thread: callers pass a block at a time, never a whole blob.
 */
export interface Codec {
  /**
   * Decodes one raw LZ4 block, which has to fill the target exactly. Throws when the input is
   * damaged or decodes to another size; the content of the target is then undefined.
   */
  lz4Decode(source: Uint8Array, target: Uint8Array): void;
  /** Encodes to one raw LZ4 block: no frame, no leading size. */
  lz4Encode(source: Uint8Array): Uint8Array;
  /** Decodes one ZSTD frame into the target, and throws, as `lz4Decode()` does. */
  zstdDecode(source: Uint8Array, target: Uint8Array): void;
  /** Encodes to one ZSTD frame. */
  zstdEncode(source: Uint8Array): Uint8Array;
  /** Standard CRC-32C (init and final inversion), continued from `initial` (0 at the start). */
  crc32c(data: Uint8Array, initial?: number): number;
}

/** A hash that takes its input in pieces. After `digest()` nothing may be called. */
export interface Hasher {
  update(data: Uint8Array): void;
  digest(): Uint8Array;
}

/** Digests and checks of signatures, injected. */
export interface Hash {
  sha256(data: Uint8Array): Uint8Array;
  sha256Stream(): Hasher;
  /** BLAKE3, 32 bytes: the digest of blocks, three times as fast as SHA-256 at their size. */
  blake3(data: Uint8Array): Uint8Array;
  /**
   * Whether `signature` (64 bytes) is the Ed25519 signature of `message` by `publicKey` (32 bytes).
   */
  ed25519Verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean;
}

/** Signs with the host's identity. */
export interface Signer {
  /** Ed25519 public key, 32 bytes. */
  readonly publicKey: Uint8Array;
  /** Ed25519 signature, 64 bytes. */
  sign(message: Uint8Array): Uint8Array;
}
