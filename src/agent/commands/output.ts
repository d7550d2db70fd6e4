import { InvalidArgumentError, Option } from 'commander';
import { ADMIN_URL_DEFAULT } from '../admin/admin-client.ts';

/** Option `--json` of the commands that print facts. */
export function jsonOption(): Option {
  return new Option('--json', 'print one JSON object for scripts');
}

/** Option `--admin URL` of the commands that ask a running agent. */
export function adminOption(): Option {
  return new Option('--admin <url>', 'admin address of the agent')
    .default(ADMIN_URL_DEFAULT)
    .argParser((text) => {
      const url = URL.parse(text);
      if (url?.protocol === 'http:' && url.pathname === '/' && url.search === '') return url.origin;
      throw new InvalidArgumentError('It must be http://HOST:PORT.');
    });
}

/** Prints facts: as one JSON object for scripts, or as text for people. */
export function printFacts(json: boolean | undefined, facts: unknown, text: string): void {
  process.stdout.write(json === true ? `${JSON.stringify(facts)}\n` : `${text}\n`);
}

/** Lines of `name  value`, with the values aligned. */
export function columns(rows: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}
