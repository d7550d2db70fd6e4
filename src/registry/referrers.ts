import { parseDigest, type Digest } from '../image/digest.ts';
import { MANIFEST_SIZE_BYTES_MAX } from '../image/manifest.ts';

/** Referrers of one type that are looked at; the first that were listed are left out. */
const LISTED_MAX = 64;

/** A manifest that a list of referrers names. */
export interface Referrer {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly artifactType: string;
}

/**
 * The tag of the index that lists the referrers of a manifest where nothing else lists them
 * (distribution spec 1.1, "Referrers Tag Schema").
 */
export function referrersTag(digest: Digest): string {
  return digest.replace(':', '-');
}

/** Whether a tag is of that form. */
export function isReferrersTag(tag: string): boolean {
  return parseDigest(tag.replace('-', ':')) !== undefined;
}

/** Those of one type in the pages of such a list; what is no sound entry is left out. */
export function referrersOfType(
  pages: readonly Uint8Array[],
  artifactType: string,
): readonly Referrer[] {
  const found = pages.flatMap((page) =>
    entriesOf(page).flatMap((entry): readonly Referrer[] => {
      const { mediaType, digest: text, size, artifactType: type } = entry;
      const digest = parseDigest(String(text));
      if (type !== artifactType || digest === undefined || typeof mediaType !== 'string') return [];
      if (typeof size !== 'number' || !(size > 0 && size <= MANIFEST_SIZE_BYTES_MAX)) return [];
      return [{ mediaType, digest, size, artifactType }];
    }),
  );
  return found.slice(-LISTED_MAX);
}

function entriesOf(page: Uint8Array): readonly Readonly<Record<string, unknown>>[] {
  try {
    const { manifests } = Object(JSON.parse(new TextDecoder().decode(page))) as {
      manifests?: unknown;
    };
    const list: readonly unknown[] = Array.isArray(manifests) ? manifests : [];
    return list.map((entry) => Object(entry) as Readonly<Record<string, unknown>>);
  } catch {
    return [];
  }
}
