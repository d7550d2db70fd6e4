import { readFile, writeFile } from 'node:fs/promises';
import type { Cell, Row } from './row.ts';

const PAGE = new URL('../../docs/REGISTRIES.md', import.meta.url);

/** Lines around the table in the page. */
const BEGIN = '<!-- measured: npm run registries -- --write -->';
const END = '<!-- end of measured -->';

/** Puts the table of all kinds into docs/REGISTRIES.md. */
export async function writeTable(rows: readonly Row[]): Promise<void> {
  const text = await readFile(PAGE, 'utf8');
  const [before = '', after = ''] = [text.split(BEGIN)[0], text.split(END)[1]];
  await writeFile(PAGE, `${before}${BEGIN}\n\n${tableOf(rows)}\n\n${END}${after}`);
}

function tableOf(rows: readonly Row[]): string {
  const head = [
    'the server',
    'containerd, straight',
    'mirror',
    'lazy, straight',
    'prefix',
    'preheat',
  ];
  const lines = rows.map(({ kind, seen, straight, lazyStraight, cells }) => {
    const [mirror, prefix, preheat] = cells;
    const columns = [straight, mirror, lazyStraight, prefix, preheat].map(textOf);
    return [`${kind} (${seen})`, ...columns];
  });
  return [head, head.map(() => '---'), ...lines]
    .map((columns) => `| ${columns.map((column) => column.replaceAll('|', '\\|')).join(' | ')} |`)
    .join('\n');
}

function textOf(cell: Cell | undefined): string {
  if (cell === undefined) return '';
  const { outcome, requests, seconds, worse } = cell;
  const text = `${outcome}, ${requests} requests, ${seconds.toFixed(2)} s`;
  return worse === undefined ? text : `**${text}**`;
}
