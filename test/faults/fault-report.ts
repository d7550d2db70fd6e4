import { bytesEqual } from '../../src/util/bytes.ts';

/** Invariants under all injected faults, by their violation. */
export type Rule = 'wrong bytes' | 'lost durable block' | 'failed read' | 'hang' | 'broken promise';

/** Sections of the table, in its order. */
const SECTIONS = ['crashes', 'injected', 'checked'] as const;
type Section = (typeof SECTIONS)[number];

/** Maximum number of violations kept with their text; further ones are only counted. */
const VIOLATIONS_MAX = 50;

/**
 * Faults that a run of the fault tests injected, comparisons that it made, and violations that it
 * found.
 */
export class FaultReport {
  readonly #counts: Readonly<Record<Section, Map<string, number>>> = {
    crashes: new Map(),
    injected: new Map(),
    checked: new Map(),
  };
  readonly #violations = new Map<Rule, number>([
    ['wrong bytes', 0],
    ['lost durable block', 0],
    ['failed read', 0],
    ['hang', 0],
    ['broken promise', 0],
  ]);
  /** The first violations, one line each. */
  readonly texts: string[] = [];

  add(section: Section, what: string, count = 1): void {
    const counts = this.#counts[section];
    counts.set(what, (counts.get(what) ?? 0) + count);
  }

  count(section: Section, what: string): number {
    return this.#counts[section].get(what) ?? 0;
  }

  sum(section: Section): number {
    return [...this.#counts[section].values()].reduce((sum, count) => sum + count, 0);
  }

  /** Counts the bytes as compared; different bytes break a rule. */
  compare(found: Uint8Array, expected: Uint8Array, where: string): void {
    this.add('checked', 'bytes compared', found.length);
    if (!bytesEqual(found, expected)) this.violate('wrong bytes', where);
  }

  /** `text` says where, and how to reproduce it. */
  violate(rule: Rule, text: string): void {
    this.#violations.set(rule, (this.#violations.get(rule) ?? 0) + 1);
    if (this.texts.length < VIOLATIONS_MAX) this.texts.push(`${rule}: ${text}`);
  }

  get violationCount(): number {
    return [...this.#violations.values()].reduce((sum, count) => sum + count, 0);
  }

  /** The table that the run prints at the end. */
  toString(): string {
    const lines: string[] = [];
    const line = (what: string, count: number): void =>
      void lines.push(`  ${what.padEnd(44)}${String(count).padStart(14)}`);
    for (const section of SECTIONS) {
      lines.push(section);
      for (const [what, count] of [...this.#counts[section]].sort(byName)) line(what, count);
      if (section !== 'checked') line('in all', this.sum(section));
    }
    lines.push('found wrong');
    for (const [rule, count] of this.#violations) line(rule, count);
    return `${lines.join('\n')}\n`;
  }
}

function byName([a]: [string, number], [b]: [string, number]): number {
  return a < b ? -1 : 1;
}
