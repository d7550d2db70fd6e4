import { writeFileSync } from 'node:fs';
import { PAGES, pageUrl } from './pages.ts';

for (const [name, write] of PAGES) writeFileSync(pageUrl(name), write());
