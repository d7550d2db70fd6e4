import { readTar } from '../../../src/convert/tar/read-tar.ts';
import type { TarEntry, TarLimits } from '../../../src/convert/tar/tar-entry.ts';

/** An entry with its data as one piece. */
export interface ReadEntry {
  readonly entry: TarEntry;
  readonly data: Uint8Array;
}

/** The bytes in chunks of these sizes, again and again. */
export async function* chunksOf(
  bytes: Uint8Array,
  ...sizes: readonly number[]
): AsyncGenerator<Uint8Array, void> {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] ?? bytes.length;
    yield await Promise.resolve(bytes.subarray(at, at + size));
    at += size;
  }
}

/** All that an archive has. */
export async function readAll(
  chunks: AsyncIterable<Uint8Array>,
  options: { limits?: TarLimits; signal?: AbortSignal } = {},
): Promise<readonly ReadEntry[]> {
  const entries: ReadEntry[] = [];
  for await (const { entry, content } of readTar(chunks, options)) {
    const pieces: Uint8Array[] = [];
    for await (const piece of content) pieces.push(piece);
    entries.push({ entry, data: new Uint8Array(Buffer.concat(pieces)) });
  }
  return entries;
}

/** The bytes of a file, with its holes. */
export function wholeFile({ entry, data }: ReadEntry): Uint8Array {
  const file = new Uint8Array(entry.sizeBytes);
  let at = 0;
  for (const { offset, length } of entry.dataRuns) {
    file.set(data.subarray(at, at + length), offset);
    at += length;
  }
  return file;
}
