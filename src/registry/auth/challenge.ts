/** One challenge of a WWW-Authenticate header (RFC 9110, section 11.6.1). */
export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  /** Names in lower case; of a repeated name the first one counts. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Characters of a header that are read; what is in use has some hundred. */
const HEADER_LENGTH_MAX = 8192;

/**
 * RFC 9110: token (5.6.2), quoted-string (5.6.4), token68 (11.2). Sticky: each match starts where
 * the last one ended.
 */
const TOKEN = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
const QUOTED = /"((?:[^"\\]|\\.)*)"/y;
const TOKEN68 = /[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))/y;
const SPACE = /[ \t]*/y;

/** Reads a text from left to right. */
class Scanner {
  readonly #text: string;
  position = 0;

  constructor(text: string) {
    this.#text = text;
  }

  get ended(): boolean {
    return this.position >= this.#text.length;
  }

  /** Whether a space, a comma or the end comes next. */
  get atGap(): boolean {
    return this.ended || ' \t,'.includes(this.#text[this.position] ?? '');
  }

  take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.position;
    const match = pattern.exec(this.#text);
    if (match === null) return undefined;
    this.position += match[0].length;
    return match[1] ?? match[0];
  }

  takeCharacter(character: string): boolean {
    if (this.#text[this.position] !== character) return false;
    this.position++;
    return true;
  }
}

/**
 * The challenges in the WWW-Authenticate headers of an answer. A header that breaks the grammar
 * gives those in front of the fault; never throws.
 */
export function parseChallenges(header: string | readonly string[] | undefined): Challenge[] {
  const headers = typeof header === 'string' ? [header] : (header ?? []);
  return headers.flatMap((text) => parseHeader(text.slice(0, HEADER_LENGTH_MAX)));
}

function parseHeader(text: string): Challenge[] {
  const scanner = new Scanner(text);
  const challenges: Challenge[] = [];
  let parameters: Map<string, string> | undefined;
  while (!scanner.ended) {
    scanner.take(SPACE);
    if (scanner.takeCharacter(',') || scanner.ended) continue;
    const parameter = takeParameter(scanner);
    if (parameter !== undefined) {
      if (parameters === undefined) return challenges;
      const [name, value] = parameter;
      if (!parameters.has(name)) parameters.set(name, value);
      continue;
    }
    const scheme = scanner.take(TOKEN);
    if (scheme === undefined || !scanner.atGap) return challenges;
    parameters = new Map();
    challenges.push({ scheme: scheme.toLowerCase(), parameters });
    skipToken68(scanner);
  }
  return challenges;
}

/** `name = value`, or nothing at all. */
function takeParameter(scanner: Scanner): readonly [string, string] | undefined {
  const start = scanner.position;
  const name = scanner.take(TOKEN);
  scanner.take(SPACE);
  if (name !== undefined && scanner.takeCharacter('=')) {
    scanner.take(SPACE);
    const quoted = scanner.take(QUOTED)?.replaceAll(/\\(.)/g, '$1');
    const value = quoted ?? scanner.take(TOKEN);
    if (value !== undefined) return [name.toLowerCase(), value];
  }
  scanner.position = start;
  return undefined;
}

/** Some schemes carry one value without a name; it is of no use here. */
function skipToken68(scanner: Scanner): void {
  const start = scanner.position;
  scanner.take(SPACE);
  const isParameter = takeParameter(scanner) !== undefined;
  scanner.position = start;
  if (isParameter) return;
  scanner.take(SPACE);
  scanner.take(TOKEN68);
}
