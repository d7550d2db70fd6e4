import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { PAGES, pageUrl } from './pages.ts';

describe('generated pages', () => {
  it.each([...PAGES.keys()])('docs/%s is what its code says: `npm run docs` writes it', (name) => {
    const hint = `docs/${name} is not what its code says: run \`npm run docs\``;
    expect(readFileSync(pageUrl(name), 'utf8'), hint).toBe(PAGES.get(name)?.());
  });
});
