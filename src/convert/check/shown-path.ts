import type { ByteString } from '../tar/tar-entry.ts';

/** Characters of a path that are shown. */
const SHOWN_MAX = 1000;

const NAMED: Readonly<Record<string, string>> = { '\n': '\\n', '\t': '\\t', '\\': '\\\\' };

/**
 * A path for people, on one line: as UTF-8 where it is that, else with escapes for its bytes; and
 * with escapes for control characters and backslashes.
 */
export function shownPath(path: ByteString): string {
  const short = path.length > SHOWN_MAX ? `${path.slice(0, SHOWN_MAX)}...` : path;
  const bytes = Buffer.from(short, 'latin1');
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    const escaped = (byte: string): string => `\\x${byte.charCodeAt(0).toString(16)}`;
    return short
      .split(/([\x80-\xff])/)
      .map((part, i) => (i % 2 === 1 ? escaped(part) : plain(part)))
      .join('');
  }
  return plain(text);
}

function plain(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\\]/gu,
    (character) => NAMED[character] ?? `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}
