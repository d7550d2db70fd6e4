import { parseDigest, type Digest } from '../image/digest.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { readSmallFile } from './small-file.ts';

/** Bytes of a line: "sha256:", 64 digits and a line feed. */
const LINE_BYTES = 72;

/** The last line of a list: without it the file was cut off. */
const END = 'end';

/** A list as its file has it: a digest per line, then `end`. */
export function encodeDigestList(digests: Iterable<Digest>): Uint8Array {
  return new TextEncoder().encode([...digests, END, ''].join('\n'));
}

/**
 * The digests of a file, and whether it is whole. Of a damaged file what can be read counts, with a
 * line in the log that names it; `what` is its subject. No file is a whole and empty list.
 */
export async function readDigestList(
  components: { readonly disk: Disk; readonly logger: Logger },
  { path, what, digestsMax }: { path: string; what: string; digestsMax: number },
): Promise<{ readonly digests: readonly Digest[]; readonly isWhole: boolean }> {
  const bytes = await readSmallFile(components, path, (digestsMax + 1) * LINE_BYTES);
  if (bytes === undefined) return { digests: [], isWhole: true };
  const lines = new TextDecoder().decode(bytes).split('\n');
  const hasEnd = lines.at(-1) === '' && lines.at(-2) === END;
  const kept = lines.filter((line) => line !== '').slice(0, hasEnd ? -1 : undefined);
  const digests = kept.flatMap((line) => parseDigest(line) ?? []).slice(0, digestsMax);
  const isWhole = hasEnd && digests.length === kept.length;
  if (!isWhole) {
    const fields = { path, digestCount: digests.length };
    components.logger.warn(fields, `${what} is damaged: it goes on with what can be read of it`);
  }
  return { digests, isWhole };
}
