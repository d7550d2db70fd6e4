import ts from 'typescript';
import { lineAt, sourcesIn, treeOf, type Finding } from './sources.ts';

const CODE_COLUMNS_MAX = 100;
const PAGE_COLUMNS_MAX = 120;

/** Each exported function, class, interface, type and constant of src without a doc comment. */
export function undocumentedExports(): readonly Finding[] {
  return sourcesIn(['src'], /\.ts$/).flatMap((source) => {
    const tree = treeOf(source);
    const documented = new Set<string>();
    const findings: Finding[] = [];
    for (const statement of tree.statements) {
      const isExported =
        ts.canHaveModifiers(statement) &&
        ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword);
      if (isExported !== true) continue;
      const name = nameOf(statement);
      // Overloads share the comment of the first.
      if (documented.has(name)) continue;
      if (ts.getJSDocCommentsAndTags(statement).length > 0) documented.add(name);
      else
        findings.push({ path: source.path, line: lineAt(tree, statement.getStart()), text: name });
    }
    return findings;
  });
}

function nameOf(statement: ts.Statement): string {
  if (ts.isVariableStatement(statement)) {
    return statement.declarationList.declarations.map(({ name }) => name.getText()).join(', ');
  }
  const { name } = statement as ts.DeclarationStatement;
  return name?.getText() ?? 'default';
}

/** Each line that is too wide; lines with a URL may be, and rows of tables. */
export function wideLines(): readonly Finding[] {
  const code = sourcesIn(['src', 'test', 'bench'], /\.ts$/);
  const pages = sourcesIn(['docs', 'README.md'], /\.md$/);
  return [...code, ...pages].flatMap(({ path, lines }) => {
    const isPage = path.endsWith('.md');
    const columnsMax = isPage ? PAGE_COLUMNS_MAX : CODE_COLUMNS_MAX;
    return lines.flatMap((text, i) => {
      const mayBeWide = /https?:\/\/\S{30}/.test(text) || (isPage && /^\s*\|/.test(text));
      if ([...text].length <= columnsMax || mayBeWide) return [];
      return [{ path, line: i + 1, text: `${[...text].length} columns` }];
    });
  });
}
