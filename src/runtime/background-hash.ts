/** A SHA-256 that is fed piece by piece and computed away from the calling thread. Reject when that thread is gone. */
export interface BackgroundHasher {
  /** Takes a copy, and resolves when it was hashed: so that one piece at most is under way. */
  update(data: Uint8Array): Promise<void>;
  /** The digest, 32 bytes. Nothing may follow but `close()`. */
  digest(): Promise<Uint8Array>;
  /** Lets go of the thread. */
  close(): Promise<void>;
}

/** Hashing of whole blobs, injected: of the order of seconds of CPU, too much for the thread that serves the network. */
export interface BackgroundHash {
  sha256(): BackgroundHasher;
}
