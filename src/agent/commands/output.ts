import { InvalidArgumentError, Option } from 'commander';
import { plainText } from '../../util/plain-text.ts';
import { ADMIN_SOCKET } from '../config/admin-socket.ts';

/** Option `--json` of the commands that print facts. */
export function jsonOption(): Option {
  return new Option('--json', 'print one JSON object for scripts');
}

/** `--admin ADDRESS` of the commands that ask a running agent. */
export function adminOption(what = 'socket of the agent', socket = ADMIN_SOCKET): Option {
  return new Option('--admin <address>', `${what}, or http://HOST:PORT`)
    .default(socket)
    .argParser((text) => {
      const url = URL.parse(text);
      if (url?.protocol === 'http:' && url.pathname === '/' && url.search === '') return url.origin;
      if (url === null && text.includes('/')) return text;
      throw new InvalidArgumentError(
        'It must be the path of a socket, with a slash, or http://HOST:PORT.',
      );
    });
}

/** `--token-file FILE` of the same commands. */
export function tokenOption(): Option {
  return new Option('--token-file <file>', 'file of the token that the agent wants over http');
}

/** Prints facts for scripts or for people. */
export function printFacts(json: boolean | undefined, facts: unknown, text: string): void {
  process.stdout.write(json === true ? `${JSON.stringify(facts)}\n` : `${plainText(text)}\n`);
}

/** Says on standard error what a user should know of a command that goes on. */
export function warn(text: string): void {
  process.stderr.write(`xylem: ${plainText(text)}\n`);
}

/** Lines of `name  value`, with the values aligned. */
export function columns(rows: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}

/** Rows below their headings, in columns. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((name, i) =>
    Math.max(name.length, ...rows.map((row) => row[i]?.length ?? 0)),
  );
  return [header, ...rows]
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
