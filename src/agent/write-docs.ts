import { writeFile } from 'node:fs/promises';
import { metricsDocs } from './admin/metrics-docs.ts';

/** The pages of docs/ that are generated, and what makes each. */
const PAGES: Readonly<Record<string, () => string>> = { 'METRICS.md': metricsDocs };

/** `npm run docs`. */
for (const [name, make] of Object.entries(PAGES)) {
  await writeFile(new URL(`../../docs/${name}`, import.meta.url), make());
}
