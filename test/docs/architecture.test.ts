import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

/** What `.dependency-cruiser.mjs` exports beside its rules. */
interface Directions {
  readonly may: Readonly<Record<string, readonly string[]>>;
  readonly rooms: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>;
}

const ROOT = new URL('../../', import.meta.url);

it('docs/ARCHITECTURE.md has folders, rooms and arrows of .dependency-cruiser.mjs', async () => {
  const rules = new URL('.dependency-cruiser.mjs', ROOT).href;
  const { may, rooms } = (await import(rules)) as Directions;
  const page = readFileSync(new URL('docs/ARCHITECTURE.md', ROOT), 'utf8');
  const rows = [...page.matchAll(/^\| ([a-z]+) \| (.*?) \| (.*?) \| .*\|$/gm)];
  const found = rows
    .map(([, folder, inner, others]) => [folder, inner?.trim(), others])
    .filter(([folder]) => folder !== undefined && folder in may);
  const wanted = Object.entries(may).map(([folder, others]) => {
    const inner = Object.entries(rooms[folder] ?? {}).map(
      ([room, arrows]) => `\`${room}\`${arrows.length > 0 ? ` -> ${arrows.join(' ')}` : ''}`,
    );
    return [folder, inner.join('<br>'), others.join(' ') || '-'];
  });
  expect(found).toEqual(wanted);
});
