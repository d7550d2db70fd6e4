import { adminDocs } from '../../src/agent/admin/api-docs.ts';
import { metricsDocs } from '../../src/agent/admin/metrics-docs.ts';
import { configDocs } from '../../src/agent/config/config-docs.ts';

/**
 * The pages of docs/ that are generated, by name, and what writes each whole. `npm run docs` writes
 * them all.
 */
export const PAGES: ReadonlyMap<string, () => string> = new Map([
  ['ADMIN.md', adminDocs],
  ['CONFIGURATION.md', configDocs],
  ['METRICS.md', metricsDocs],
]);

/** Where a page is. */
export function pageUrl(name: string): URL {
  return new URL(`../../docs/${name}`, import.meta.url);
}
