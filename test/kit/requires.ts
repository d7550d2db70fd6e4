import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { describe } from 'vitest';

/** Real overlaybd layers, beside the checkout; not part of the project. */
export const FIXTURES = new URL('../../../shared/fixtures/overlaybd/', import.meta.url).pathname;

/** Why the host does not meet a need of a test; undefined when it does. */
type Need = () => string | undefined;

export const needs = {
  fixtures: (): string | undefined => (existsSync(FIXTURES) ? undefined : 'no ../shared/fixtures'),
  root: (): string | undefined => (process.getuid?.() === 0 ? undefined : 'not root'),
  fuse: (): string | undefined => {
    try {
      accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
      return undefined;
    } catch {
      return '/dev/fuse cannot be opened';
    }
  },
  program:
    (name: string): Need =>
    () =>
      [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'].some((folder) =>
        existsSync(join(folder, name)),
      )
        ? undefined
        : `no ${name} installed`,
};

/**
 * A `describe` that is skipped when the host does not meet a need; prints the reasons and puts them
 * into its name.
 */
export function describeWith(name: string, required: readonly Need[], body: () => void): void {
  const missing = required.map((need) => need()).filter((reason) => reason !== undefined);
  if (missing.length === 0) {
    describe(name, body);
    return;
  }
  console.info(`skipped: ${name}: ${missing.join(', ')}`);
  describe.skip(`${name} [skipped: ${missing.join(', ')}]`, body);
}
