import type { Compression, Decompressor } from '../../runtime/decompressor.ts';
import { errorText } from '../../util/errors.ts';
import { ConvertError } from '../errors.ts';

/** Bytes that tell a compression. */
const MAGIC_BYTES = 4;

/**
 * The tar of a layer: undoes gzip or zstd, found by the first bytes, since media types are often
 * wrong; anything else passes as it is. Concatenated gzip members and zstd frames are read on.
 * Throws ConvertError for a damaged stream, and what the source throws.
 */
export async function* layerTar(
  decompressor: Decompressor,
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void> {
  const source = new Source(chunks);
  const compression = compressionOf(await source.head());
  if (compression === undefined) {
    yield* source;
    return;
  }
  let offset = 0;
  try {
    for await (const piece of decompressor.decompress(compression, source)) {
      offset += piece.length;
      yield piece;
    }
  } catch (cause) {
    if (source.failure?.error === cause) throw cause;
    throw new ConvertError(
      `cannot undo the ${compression} compression of a layer: ${errorText(cause)}`,
      { code: 'tar', path: '', offset },
      { cause },
    );
  }
}

/** Chunks whose first bytes are known before they are read. Remembers how they failed. */
class Source implements AsyncIterable<Uint8Array> {
  readonly #chunks: AsyncIterator<Uint8Array>;
  /** What was read to know the head. */
  readonly #first: Uint8Array[] = [];
  failure: { readonly error: unknown } | undefined;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async head(): Promise<Uint8Array> {
    const head = new Uint8Array(MAGIC_BYTES);
    for (let have = 0; have < MAGIC_BYTES; ) {
      const { done, value } = await this.#chunks.next();
      if (done === true) break;
      this.#first.push(value);
      head.set(value.subarray(0, MAGIC_BYTES - have), have);
      have += Math.min(value.length, MAGIC_BYTES - have);
    }
    return head;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    try {
      yield* this.#first.splice(0);
      yield* { [Symbol.asyncIterator]: () => this.#chunks };
    } catch (error) {
      this.failure = { error };
      throw error;
    } finally {
      await this.#chunks.return?.();
    }
  }
}

function compressionOf(head: Uint8Array): Compression | undefined {
  const [a = 0, b = 0, c = 0, d = 0] = head;
  if (a === 0x1f && b === 0x8b) return 'gzip';
  if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) return 'zstd';
  if ((a & 0xf0) === 0x50 && b === 0x2a && c === 0x4d && d === 0x18) return 'zstd';
  return undefined;
}
