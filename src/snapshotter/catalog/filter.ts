import { SnapshotError } from '../errors.ts';
import type { SnapshotRecord } from './snapshot.ts';

/** Longest filter, in characters. */
const FILTER_CHARACTERS_MAX = 16_384;

/** Most filters of one call. */
const FILTERS_MAX = 64;

/** Whether a snapshot is meant. */
export type Filter = (record: SnapshotRecord) => boolean;

type Operator = 'present' | '==' | '!=' | '~=' | '@=';

interface Selector {
  readonly path: readonly string[];
  readonly operator: Operator;
  readonly value: string;
}

/**
 * Filters of containerd's API: a snapshot is meant when any of them matches, or when there are
 * none.
 *
 *     filter    = selector {"," selector}               all of them match; empty: all snapshots
 *     selector  = path [("==" | "!=" | "~=" | "@=") value]    without value: the field is there
 *     path      = field {"." field}
 *     field     = letters, digits, "_" and "-", or quoted by "
 *     value     = all up to a blank or a comma, or quoted by "; of ~= also by / or |
 *
 * `~=` matches a regular expression anywhere, `@=` a part of the text. Fields are `name`, `parent`,
 * `kind` and `labels.KEY`. Throws SnapshotError `invalid`.
 */
export function parseFilters(texts: readonly string[]): Filter {
  if (texts.length > FILTERS_MAX) {
    const what = `${texts.length} filters are too many: ${FILTERS_MAX} at most`;
    throw new SnapshotError(what, { code: 'invalid' });
  }
  const filters = texts.map((text) => new FilterParser(text).parse());
  if (filters.length === 0) return () => true;
  return (record) => filters.some((filter) => filter(record));
}

function matcher({ path, operator, value }: Selector): Filter {
  const pattern = operator === '~=' ? patternOf(value) : undefined;
  return (record) => {
    const found = fieldAt(record, path);
    const text = found ?? '';
    switch (operator) {
      case 'present':
        return found !== undefined;
      case '==':
        return found !== undefined && text === value;
      case '!=':
        return text !== value;
      case '~=':
        return pattern?.test(text) === true;
      case '@=':
        return text.includes(value);
    }
  };
}

/** As containerd does it: an expression that is none matches nothing. */
function patternOf(value: string): RegExp | undefined {
  try {
    return new RegExp(value, 's');
  } catch {
    return undefined;
  }
}

function fieldAt(
  { name, parent, kind, labels }: SnapshotRecord,
  [field, ...rest]: readonly string[],
): string | undefined {
  switch (field) {
    case 'name':
      return name;
    case 'parent':
      return parent;
    case 'kind':
      return kind;
    case 'labels': {
      const key = rest.join('.');
      return Object.hasOwn(labels, key) ? labels[key] : undefined;
    }
    default:
      return undefined;
  }
}

const BLANKS = /[\p{White_Space}]*/uy;
const FIELD = /[A-Za-z0-9_-]+/y;
const OPERATOR = /[=!~@]+/y;
const VALUE = /[^,\p{White_Space}\p{Cc}]+/uy;
const OPERATORS: readonly string[] = ['==', '!=', '~=', '@='] satisfies readonly Operator[];

class FilterParser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
    if (text.length > FILTER_CHARACTERS_MAX) {
      this.#text = text.slice(0, 64);
      throw this.#error(`has more than ${FILTER_CHARACTERS_MAX} characters`);
    }
  }

  parse(): Filter {
    if (this.#text === '') return () => true;
    const selectors = [this.#selector()];
    while (this.#takes(',')) selectors.push(this.#selector());
    if (!this.#isAtEnd()) throw this.#error('goes on after a selector');
    const matchers = selectors.map(matcher);
    return (record) => matchers.every((matches) => matches(record));
  }

  #selector(): Selector {
    const path = [this.#field()];
    while (this.#takes('.')) path.push(this.#field());
    if (this.#isAtEnd() || this.#peek() === ',') return { path, operator: 'present', value: '' };
    const operator = this.#take(OPERATOR);
    if (operator === undefined || !OPERATORS.includes(operator)) {
      throw this.#error(`has no operator ${OPERATORS.join(', ')}`);
    }
    return { path, operator: operator as Operator, value: this.#value(operator === '~=') };
  }

  #field(): string {
    const field = this.#peek() === '"' ? this.#quoted('"') : this.#take(FIELD);
    if (field === undefined) throw this.#error('has no name of a field');
    return field;
  }

  #value(isPattern: boolean): string {
    const quote = this.#peek();
    if (quote === '"' || (isPattern && (quote === '/' || quote === '|'))) {
      return this.#quoted(quote);
    }
    const value = quote === '/' || quote === '|' ? undefined : this.#take(VALUE);
    if (value === undefined) throw this.#error('has no value');
    return value;
  }

  #quoted(quote: string): string {
    const start = ++this.#at;
    for (; this.#text[this.#at] !== quote; this.#at++) {
      if (this.#text[this.#at] === '\\') this.#at++;
      if (this.#at >= this.#text.length || this.#text[this.#at] === '\n') {
        throw this.#error('has a quoted text without an end');
      }
    }
    const unquoted = unquote(this.#text.slice(start, this.#at++), quote);
    if (unquoted === undefined) throw this.#error('has a quoted text with a wrong escape');
    return unquoted;
  }

  /** The next character behind blanks. */
  #peek(): string {
    this.#match(BLANKS);
    return this.#text[this.#at] ?? '';
  }

  #isAtEnd(): boolean {
    return this.#peek() === '';
  }

  #takes(character: string): boolean {
    if (this.#peek() !== character) return false;
    this.#at++;
    return true;
  }

  #take(pattern: RegExp): string | undefined {
    this.#match(BLANKS);
    return this.#match(pattern);
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const [found] = pattern.exec(this.#text) ?? [];
    this.#at += found?.length ?? 0;
    return found;
  }

  #error(what: string): SnapshotError {
    const place = `${JSON.stringify(this.#text)}, at character ${this.#at + 1}`;
    return new SnapshotError(`the filter ${place}: ${what}`, { code: 'invalid' });
  }
}

/** Escapes of strings in Go: one character, its number in octal, or in hexadecimal digits. */
const ESCAPES =
  /\\(?:([abfnrtv\\])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([^]))/g;
const CONTROLS: Readonly<Record<string, string>> = {
  ...{ a: '\x07', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v', '\\': '\\' },
};

/** The text between quotes; undefined when an escape in it is wrong. */
function unquote(text: string, quote: string): string | undefined {
  let isRight = true;
  const plain = text.replace(ESCAPES, (...found: (string | undefined)[]) => {
    const [, control, octal, ...digits] = found;
    if (control !== undefined) return CONTROLS[control] ?? '';
    const [x, u, U, other] = digits;
    if (octal !== undefined) return characterOf(Number.parseInt(octal, 8), 0xff);
    const hex = x ?? u ?? U;
    if (hex !== undefined) return characterOf(Number.parseInt(hex, 16), 0x10ffff);
    if (other !== quote) isRight = false;
    return other ?? '';
  });
  return isRight ? plain : undefined;

  function characterOf(code: number, max: number): string {
    if (code > max || (code >= 0xd800 && code < 0xe000)) isRight = false;
    return isRight ? String.fromCodePoint(code) : '';
  }
}
