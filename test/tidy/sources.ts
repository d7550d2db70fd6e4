import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

/** The folder of the project. */
export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** A text file of the project. */
export interface Source {
  /** From the folder of the project, with `/`. */
  readonly path: string;
  readonly text: string;
  readonly lines: readonly string[];
}

/** A place that breaks a rule. */
export interface Finding {
  readonly path: string;
  /** Counted from 1. */
  readonly line: number;
  readonly text: string;
}

/** Every file below a folder of the project, or the file itself. */
export function pathsIn(place: string): readonly string[] {
  const path = join(ROOT, place);
  if (!place.includes('.')) {
    return readdirSync(path, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
      .sort();
  }
  return [place];
}

/** The files of these places whose names end so. */
export function sourcesIn(places: readonly string[], ending: RegExp): readonly Source[] {
  const paths = places.flatMap(pathsIn).filter((path) => ending.test(path));
  return paths.map((path) => {
    const text = readFileSync(join(ROOT, path), 'utf8');
    return { path, text, lines: text.replace(/\n$/, '').split('\n') };
  });
}

const parsed = new Map<string, ts.SourceFile>();

/** The syntax tree of a TypeScript source; each file is parsed once. */
export function treeOf({ path, text }: Source): ts.SourceFile {
  let tree = parsed.get(path);
  if (tree === undefined) {
    tree = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
    parsed.set(path, tree);
  }
  return tree;
}

/** Calls back for each node of a tree, parents first. */
export function walk(node: ts.Node, visit: (node: ts.Node) => void): void {
  visit(node);
  ts.forEachChild(node, (child) => walk(child, visit));
}

/** Line of a position, counted from 1. */
export function lineAt(tree: ts.SourceFile, position: number): number {
  return tree.getLineAndCharacterOfPosition(position).line + 1;
}

/** The comments of a TypeScript source, each with the line on which it starts. */
export function commentsOf(source: Source): readonly { readonly line: number; text: string }[] {
  const tree = treeOf(source);
  const found = new Map<number, number>();
  walk(tree, (node) => {
    for (const range of [
      ...(ts.getLeadingCommentRanges(source.text, node.getFullStart()) ?? []),
      ...(ts.getTrailingCommentRanges(source.text, node.getEnd()) ?? []),
    ]) {
      found.set(range.pos, range.end);
    }
  });
  return [...found].map(([start, end]) => ({
    line: lineAt(tree, start),
    text: source.text.slice(start, end),
  }));
}
