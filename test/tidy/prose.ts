import { sourcesIn, type Finding } from './sources.ts';

/** Phrases that are no idiomatic English here, and what to write instead. */
const PHRASES: readonly (readonly [phrase: RegExp, better: string])[] = [
  [/\bunder way\b/i, 'in flight'],
  [/\blately\b/i, 'recently'],
  [/\bso many\b/i, 'at most N'],
  [/\bwhat is over\b/i, 'the rest; anything beyond'],
  [/(?:^|[.;:] |\* )Who (?!.*\?)[a-z]+ /, 'name who: a peer that ..., a client that ...'],
  [/\b(?:whoever|whomever)\b/i, 'name who: any client that ...'],
  [/\bas (?:it|they) (?:is|are|was|were) told\b/i, 'say who says what'],
  [/\border of their coming\b/i, 'arrival order'],
  [/\btime is over\b/i, 'the deadline has passed'],
  [/\bin the midst of\b/i, 'during'],
  [/\bfor ever\b/i, 'forever'],
  [/\bvery many\b/i, 'the number, or too many'],
  [/\bthe (?:one|blob) of its name\b/i, 'content that matches its digest'],
  [/\bof (?:ours|theirs)\b/i, 'our ..., their ...'],
  [/\bbearable\b/i, 'the bound, by its name'],
  [/\bno small thing\b/i, 'say how large it is'],
];

/** Each banned phrase in the sources, the tests, the benchmarks and the pages. */
export function bannedPhrases(): readonly Finding[] {
  return sourcesIn(['src', 'test', 'bench', 'deploy', 'docs', 'README.md'], /\.(?:ts|md|yaml)$/)
    .filter(({ path }) => !path.startsWith('test/tidy/'))
    .flatMap(({ path, lines }) =>
      lines.flatMap((text, i) =>
        PHRASES.filter(([phrase]) => phrase.test(text)).map(([phrase, better]) => ({
          path,
          line: i + 1,
          text: `"${phrase.exec(text)?.[0].trim()}": write ${better}`,
        })),
      ),
    );
}

/** Words for documents that are not in the repository, and paths that lead out of it. */
const OUTSIDE = [
  /\b(?:DESIGN|FORMATS|HOUSE|STYLE)(?:\.md\b| section\b| "|, ")/,
  /\b(?:DESIGN|FORMATS|HOUSE|STYLE|RUNTIME)\.md\b/,
  /\bRUNTIME[:,]/,
  /\bshared\/(?!fixtures\b)[a-z]+\//,
  /(?<![\w/])\/work\//,
];

/** Each mention of a document outside the repository; test/kit may read the shared fixtures. */
export function outsideMentions(): readonly Finding[] {
  return sourcesIn(['src', 'test', 'bench', 'deploy', 'docs', 'README.md'], /./)
    .filter(({ path }) => !path.startsWith('test/tidy/'))
    .flatMap(({ path, lines }) =>
      lines.flatMap((text, i) => {
        const isOutside =
          OUTSIDE.some((pattern) => pattern.test(text)) ||
          (/\.\.\/shared\//.test(text) && !path.startsWith('test/kit/'));
        return isOutside ? [{ path, line: i + 1, text: text.trim() }] : [];
      }),
    );
}
