import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, onTestFinished } from 'vitest';

/** Has something ended when the work of its owner ends; the last one first. */
export type AtEnd = (end: () => void | Promise<void>) => void;

/** A fresh folder that is removed at the end: of the running test, if nothing else is said. */
export function tempFolder(atEnd: AtEnd = onTestFinished): string {
  const folder = mkdtempSync(join(tmpdir(), 'xylem-test-'));
  atEnd(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Ends what the tests of a file or a `describe()` share, after the last of them. */
export function atEndOfAll(): AtEnd {
  const ends: Parameters<AtEnd>[0][] = [];
  afterAll(async () => {
    for (const end of ends.reverse()) await end();
  });
  return (end) => void ends.push(end);
}
