/** Kinds of text that web servers show people instead of what was asked for. */
const HTML = /^\s*(text\/html|application\/xhtml\+xml)\b/i;

/** `<`, tab, line feed, carriage return, space, and the first byte of a byte order mark. */
const PAGE_STARTS: ReadonlySet<number> = new Set([0x3c, 0x09, 0x0a, 0x0d, 0x20, 0xef]);

/** Whether the label says that the body is a page for people. Some servers label all files so. */
export function isHtml(contentType: string | undefined): boolean {
  return HTML.test(contentType ?? '');
}

/**
 * Whether a body that is labelled as a page is one: pages begin with `<`, with white space or with
 * a byte order mark; layers and JSON do not. An empty body tells nothing.
 */
export function beginsPage(byte: number | undefined): boolean {
  return byte === undefined || PAGE_STARTS.has(byte);
}
