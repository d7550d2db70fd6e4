import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PAGES, pageUrl } from './docs/pages.ts';
import { undocumentedExports, wideLines } from './tidy/form.ts';
import { missingNames } from './tidy/names.ts';
import { bannedPhrases, outsideMentions } from './tidy/prose.ts';
import { ROOT, sourcesIn, type Finding } from './tidy/sources.ts';
import { startsInUnitTests } from './tidy/units.ts';

/**
 * How many findings each file may still have, by rule. Counts only go down:
 *
 *     UPDATE_TIDY=1 npx vitest run test/tidy.test.ts     # after findings went, or moved
 */
const ALLOWED_FILE = join(ROOT, 'test/tidy/allowed.json');
type Counts = Readonly<Record<string, number>>;

const CHECKS: Readonly<Record<string, () => readonly Finding[]>> = {
  'a doc comment on every export': undocumentedExports,
  'at most 100 columns of code and comments, 120 of pages': wideLines,
  'no phrase that test/tidy/prose.ts bans': bannedPhrases,
};

/** Longest file of src in lines, comments and all. */
const FILE_LINES_MAX = 500;

/** Files of src that are longer still, and by how much they may be: lower the number with them. */
const LONG_FILES: Counts = {
  'src/blockstore/disk-store.ts': 560,
  'src/sim/agent-host.ts': 562,
  'src/transfer/core/core.ts': 592,
  'src/transfer/core/fetcher.ts': 567,
  'src/transfer/host/open-blobs.ts': 524,
  'src/tree/member/membership.ts': 566,
  'src/tree/owner/topology.ts': 548,
};

/** What this test reads of .dependency-cruiser.mjs. */
interface ImportRules {
  readonly may: Readonly<Record<string, readonly string[]>>;
  readonly rooms: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>;
  readonly compositions: readonly string[];
  readonly commandOwners: Readonly<Record<string, string>>;
}

const texts = (findings: readonly Finding[]): readonly string[] =>
  findings.map(({ path, line, text }) => `${path}:${line}: ${text}`);

function countsOf(findings: readonly Finding[]): Counts {
  const counts: Record<string, number> = {};
  for (const { path } of findings) counts[path] = (counts[path] ?? 0) + 1;
  return Object.fromEntries(Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1)));
}

const totalOf = (counts: Counts): number => Object.values(counts).reduce((a, b) => a + b, 0);

function allowances(): Record<string, Counts> {
  if (!existsSync(ALLOWED_FILE)) return {};
  return JSON.parse(readFileSync(ALLOWED_FILE, 'utf8')) as Record<string, Counts>;
}

/** Writes the counts of today; those of a rule may move among files, their sum may not grow. */
function updateAllowances(name: string, counts: Counts): void {
  const all = allowances();
  const before = all[name];
  if (before !== undefined) expect(totalOf(counts)).toBeLessThanOrEqual(totalOf(before));
  const text = JSON.stringify({ ...all, [name]: counts }, undefined, 2);
  writeFileSync(ALLOWED_FILE, `${text}\n`);
}

describe('the sources keep', () => {
  it.each(Object.entries(CHECKS))('%s', (name, check) => {
    const findings = check();
    const counts = countsOf(findings);
    if (process.env['UPDATE_TIDY'] === '1') updateAllowances(name, counts);
    const allowed = allowances()[name] ?? {};
    const tooMany = findings.filter(({ path }) => (counts[path] ?? 0) > (allowed[path] ?? 0));
    expect(texts(tooMany)).toEqual([]);
    const tooFew = Object.entries(allowed).filter(([path, count]) => (counts[path] ?? 0) < count);
    expect(tooFew, 'fewer than test/tidy/allowed.json says: run with UPDATE_TIDY=1').toEqual([]);
  });

  it(`at most ${FILE_LINES_MAX} lines in a file of src`, () => {
    const long = sourcesIn(['src'], /\.ts$/)
      .map(({ path, lines }) => [path, lines.length] as const)
      .filter(([, count]) => count > FILE_LINES_MAX);
    expect(Object.fromEntries(long), 'LONG_FILES only shrink').toEqual(LONG_FILES);
  });

  it('names of files and functions in comments and pages that exist', () => {
    expect(texts(missingNames())).toEqual([]);
  });

  it('no mention of documents outside the repository', () => {
    expect(texts(outsideMentions())).toEqual([]);
  });

  it('unit tests that start no program, agent, soak or benchmark', () => {
    expect(texts(startsInUnitTests())).toEqual([]);
  });

  it.each([...PAGES])('docs/%s as its generator writes it', (name, generate) => {
    expect(readFileSync(pageUrl(name), 'utf8'), 'run `npm run docs`').toBe(generate());
  });

  it('the folders that .dependency-cruiser.mjs names, and no others', async () => {
    const rules = (await import(join(ROOT, '.dependency-cruiser.mjs'))) as ImportRules;
    const foldersOf = (place: string): readonly string[] =>
      readdirSync(join(ROOT, place), { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => name)
        .sort();
    expect(Object.keys(rules.may).sort()).toEqual(foldersOf('src'));
    for (const folder of foldersOf('src')) {
      expect(Object.keys(rules.rooms[folder] ?? {}).sort(), folder).toEqual(
        foldersOf(`src/${folder}`),
      );
    }
    const files = [...rules.compositions, ...Object.values(rules.commandOwners)];
    expect(files.filter((file) => !existsSync(join(ROOT, 'src', file)))).toEqual([]);
  });
});
