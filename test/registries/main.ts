import { parseArgs } from 'node:util';
import { errorText } from '../../src/util/errors.ts';
import { withEndings } from '../kit/endings.ts';
import { needs } from '../kit/requires.ts';
import { SERVER_KINDS } from './kinds.ts';
import { writeTable } from './page.ts';
import { quicker, rig } from './rig.ts';
import type { Cell, Row } from './row.ts';

/** A kind with a cell that is slower, and took no longer than this, is measured once more. */
const AGAIN_SECONDS_MAX = 5;

const HELP = `Usage: npm run registries [-- --only TEXT] [--json] [--write]

Pulls one image from each kind of server, straight and through a root and a child: with the real
containerd through the mirror, as overlaybd reads through the prefix, and by a preheat.

  --only TEXT  kinds whose names have this in them
  --requests   each request that came to the server, by the way
  --json       one line of JSON for each kind
  --write      write the table into docs/REGISTRIES.md
`;

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    requests: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

async function main(): Promise<number> {
  const { only, requests, json, write, help } = values;
  if (help) {
    console.log(HELP);
    return 0;
  }
  const missing = [needs.root, ...['containerd', 'ctr'].map(needs.program)]
    .map((need) => need())
    .filter((reason) => reason !== undefined);
  if (missing.length > 0) {
    console.error(`registries: ${missing.join(', ')}`);
    return 1;
  }
  const rows: Row[] = [];
  await withEndings(async (atEnd) => {
    const run = await rig(atEnd);
    for (const kind of SERVER_KINDS.filter(({ name }) => name.includes(only))) {
      let row = await run(kind);
      // Other work on the machine may have slowed it down.
      if (row.cells.some(isBriefAndSlower)) row = quicker(row, await run(kind));
      rows.push(row);
      console.log(json ? JSON.stringify(row) : rowLine(row));
      if (requests) console.log(requestLines(row));
    }
  });
  if (write) await writeTable(rows);
  return rows.some(({ cells }) => cells.some(({ worse }) => worse !== undefined)) ? 1 : 0;
}

function isBriefAndSlower({ worse, seconds }: Cell): boolean {
  return worse === 'slower' && seconds <= AGAIN_SECONDS_MAX;
}

function rowLine({ kind, straight, lazyStraight, cells }: Row): string {
  return [
    kind.padEnd(60),
    ...[straight, lazyStraight, ...cells].map(({ way, outcome, requests, seconds, worse }) =>
      [`${way}: ${outcome}`, `${requests} requests`, `${seconds.toFixed(2)} s`, worse ?? '']
        .filter((text) => text !== '')
        .join(', '),
    ),
  ].join('\n    ');
}

function requestLines({ straight, cells }: Row): string {
  return [straight, ...cells]
    .flatMap(({ way, asked }) => [`  ${way}`, ...asked.map((line) => `    ${line}`)])
    .join('\n');
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    console.error(errorText(error));
    process.exit(1);
  },
);
