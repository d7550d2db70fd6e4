import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { tempFolder, type AtEnd } from './temp-folder.ts';

/** A folder with containerd's hosts.toml for a registry without TLS. */
export function plainHostsDir(registry: string, atEnd: AtEnd = onTestFinished): string {
  const dir = tempFolder(atEnd);
  const url = `"http://${registry}"`;
  mkdirSync(join(dir, registry));
  const text = `server = ${url}\n[host.${url}]\n  capabilities = ["pull", "resolve"]\n`;
  writeFileSync(join(dir, registry, 'hosts.toml'), text);
  return dir;
}
