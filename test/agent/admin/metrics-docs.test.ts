import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { metricsDocs } from '../../../src/agent/admin/metrics-docs.ts';

describe('metricsDocs()', () => {
  it('names every metric that the sources do', () => {
    const src = new URL('../../../src/', import.meta.url);
    const named = readdirSync(src, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .flatMap(
        (file) => readFileSync(new URL(file, src), 'utf8').match(/\bname: 'xylem_\w+'/g) ?? [],
      )
      .map((found) => found.slice("name: '".length, -1));
    expect(named.length).toBeGreaterThan(40);
    const page = metricsDocs();
    expect(named.filter((name) => !page.includes(`| \`${name}\` |`))).toEqual([]);
  });
});
