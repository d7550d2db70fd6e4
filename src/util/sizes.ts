const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  PiB: 2 ** 50,
};

/**
 * Bytes of a size such as `20GiB`, `1.5 TiB` or `4096`; undefined for other text or a fraction of a
 * byte.
 */
export function parseSizeBytes(text: string): number | undefined {
  const match = /^([0-9]{1,16}(?:\.[0-9]{1,6})?) ?([KMGTP]iB|B|)$/.exec(text);
  if (match === null) return undefined;
  const bytes = Number(match[1]) * (UNITS[match[2] ?? ''] ?? Number.NaN);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** A size in bytes for people: `20GiB`, `1.5MiB`, `100B`; at most two digits after the point. */
export function formatSizeBytes(bytes: number): string {
  const names = ['PiB', 'TiB', 'GiB', 'MiB', 'KiB'];
  const name = names.find((unit) => bytes >= (UNITS[unit] ?? Number.POSITIVE_INFINITY)) ?? 'B';
  return `${Number((bytes / (UNITS[name] ?? 1)).toFixed(2))}${name}`;
}
