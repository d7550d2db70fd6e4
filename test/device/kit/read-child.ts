/**
 * A process that reads a file which its parent serves: `read-child.ts FILE`. Takes one line of JSON
 * for each read, `{"id","offset","length"}`, any number at a time, and answers each with one:
 * `{"id","code"}` for an error, or `{"id","hex"}`. A read that ends early is told as it is.
 */
import { closeSync, fstatSync, openSync, read, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';

interface Wanted {
  readonly id: number;
  readonly offset: number;
  readonly length: number;
}

const [file = ''] = process.argv.slice(2);
const fd = openSync(file, 'r');
const answer = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`);

function readAll({ id, offset, length }: Wanted, buffer: Buffer, done: number): void {
  read(fd, buffer, done, length - done, offset + done, (error, count) => {
    if (error !== null) answer({ id, code: error.code });
    else if (count === 0 || done + count === length) {
      answer({ id, hex: buffer.toString('hex', 0, done + count) });
    } else readAll({ id, offset, length }, buffer, done + count);
  });
}

/** Why the file cannot be written. */
function writeFault(): string {
  try {
    const forWriting = openSync(file, 'r+');
    writeSync(forWriting, 'x');
    closeSync(forWriting);
    return 'none';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'unknown';
  }
}

answer({ id: 0, size: fstatSync(fd).size });
createInterface({ input: process.stdin }).on('line', (line) => {
  const wanted = JSON.parse(line) as Wanted;
  if (wanted.length < 0) answer({ id: wanted.id, code: writeFault() });
  else readAll(wanted, Buffer.alloc(wanted.length), 0);
});
