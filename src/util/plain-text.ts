/** Control characters and those that turn the text around, but for line breaks and tabs. */
const UNPRINTABLE = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/**
 * A text for a terminal: what others chose, such as names in an image or the words of a server,
 * must not move the cursor, colour the screen or set the title.
 */
export function plainText(text: string): string {
  return text.replace(
    UNPRINTABLE,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}
