import { InvalidArgumentError, Option } from 'commander';
import { ADMIN_URL_DEFAULT } from '../admin/admin-client.ts';

/** `--json` of the commands that print facts. */
export function jsonOption(): Option {
  return new Option('--json', 'print one JSON object for scripts');
}

/** `--admin URL` of the commands that ask a running agent. */
export function adminOption(): Option {
  return new Option('--admin <url>', 'admin address of the agent')
    .default(ADMIN_URL_DEFAULT)
    .argParser((text) => {
      const url = URL.parse(text);
      if (url?.protocol === 'http:' && url.pathname === '/' && url.search === '') return url.origin;
      throw new InvalidArgumentError('It must be http://HOST:PORT.');
    });
}

/** Prints facts for scripts or for people. */
export function printFacts(json: boolean | undefined, facts: unknown, text: string): void {
  process.stdout.write(json === true ? `${JSON.stringify(facts)}\n` : `${text}\n`);
}

/** Lines of `name  value`, the values under each other. */
export function columns(rows: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}
