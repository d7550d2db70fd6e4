import ts from 'typescript';
import {
  commentsOf,
  pathsIn,
  sourcesIn,
  treeOf,
  walk,
  type Finding,
  type Source,
} from './sources.ts';

/** Functions of Node, of the web, of C and of packages that prose may name. */
const FOREIGN = new Set(['subarray', 'stream.onDrain']);

/** Names of files that stand for others: `x.test.ts`. */
const EXAMPLES = new Set(['x.test.ts', 'x.system.test.ts']);

/** Names that src declares: at the top of a module, or as a member of a class or an interface. */
function declaredNames(): ReadonlySet<string> {
  const names = new Set<string>();
  for (const source of sourcesIn(['src', 'test', 'bench'], /\.ts$/)) {
    walk(treeOf(source), (node) => {
      if (
        ts.isFunctionDeclaration(node) ||
        ts.isClassDeclaration(node) ||
        ts.isInterfaceDeclaration(node) ||
        ts.isTypeAliasDeclaration(node) ||
        ts.isVariableDeclaration(node) ||
        ts.isClassElement(node) ||
        ts.isTypeElement(node) ||
        ts.isPropertyAssignment(node)
      ) {
        const { name } = node;
        if (name !== undefined) names.add(name.getText().replace('#', ''));
      }
    });
  }
  return names;
}

/** Each file and function that a text names and the project does not have. */
export function missingNames(): readonly Finding[] {
  const names = declaredNames();
  const paths = ['src', 'test', 'bench', 'bin', 'docs', 'deploy', 'vitest.config.ts']
    .flatMap(pathsIn)
    .map((path) => `/${path}`);
  const unknownIn = (text: string): readonly string[] => {
    const files = [...text.matchAll(/(?<![\w./*-])[\w./-]*\w\.ts\b/g)].map(([file]) => file);
    const calls = [...text.matchAll(/`(?:[^`\s]*[\s(])?((?:[\w#]+\.)*[\w#]+)\(\)[^`]*`/g)];
    return [
      ...files.filter(
        (file) =>
          !EXAMPLES.has(file) &&
          !paths.some((path) => path.endsWith(`/${file.replace(/^\.?\//, '')}`)),
      ),
      ...calls
        .map(([, call = '']) => call)
        .filter((call) => !FOREIGN.has(call))
        .filter((call) => call.split('.').some((name) => !names.has(name.replace('#', ''))))
        .map((call) => `${call}()`),
    ];
  };
  const ofDocs = docs().flatMap(({ path, lines }) =>
    lines.flatMap((text, i) => unknownIn(text).map((name) => ({ path, line: i + 1, text: name }))),
  );
  const ofComments = sourcesIn(['src'], /\.ts$/).flatMap((source) =>
    commentsOf(source).flatMap(({ line, text }) =>
      unknownIn(text).map((name) => ({ path: source.path, line, text: name })),
    ),
  );
  return [...ofDocs, ...ofComments];
}

/** The pages for people. */
function docs(): readonly Source[] {
  return sourcesIn(['docs', 'README.md'], /\.md$/);
}
