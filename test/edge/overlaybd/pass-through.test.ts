import { EventEmitter, once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { PassThrough as Stream, Writable } from 'node:stream';
import { expect, it } from 'vitest';
import { PassThrough } from '../../../src/edge/overlaybd/pass-through.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const REQUEST = { method: 'GET', headers: {} } as IncomingMessage;

/** A response that takes everything. */
class ResponseTwin extends Writable {
  takenBytes = 0;
  status = 0;

  writeHead(status: number): void {
    this.status = status;
  }

  override _write(piece: Buffer, _: string, done: () => void): void {
    this.takenBytes += piece.length;
    done();
  }
}

/** Servers whose answers the test writes. */
function start() {
  const clock = new ManualClock();
  const bodies: Stream[] = [];
  const opened = new EventEmitter();
  const passThrough = new PassThrough({
    clock,
    metrics: silentMetrics,
    urls: {
      open: () => {
        const body = new Stream();
        body.on('error', () => {});
        bodies.push(body);
        opened.emit('opened');
        return Promise.resolve({ status: 200, headers: {}, body });
      },
    },
  });
  const ask = (url: string) => {
    const response = new ResponseTwin();
    response.on('error', () => {});
    const abort = new AbortController();
    const { signal } = abort;
    const exchange = { response: response as unknown as ServerResponse, signal };
    const done = passThrough.answer(REQUEST, exchange, { url, onStart: () => {} });
    const outcome = done.then(
      () => 'passed',
      (error: Error) => error.message,
    );
    return { response, abort, outcome };
  };
  const opens = async (count: number): Promise<void> => {
    while (bodies.length < count) await once(opened, 'opened');
  };
  return { clock, bodies, ask, opens };
}

it('PassThrough cuts off an answer that comes too slowly, and no other', async () => {
  const { clock, bodies, ask, opens } = start();
  const slow = ask('http://slow.example/x');
  const good = ask('http://good.example/x');
  await opens(2);
  for (let i = 0; i < 4; i++) {
    bodies[0]?.write(Buffer.alloc(100));
    bodies[1]?.write(Buffer.alloc(600 * 1024));
    while (good.response.takenBytes < (i + 1) * 600 * 1024) await new Promise(setImmediate);
    clock.advance(30_000);
  }
  expect(await slow.outcome).toMatch(/^100 bytes passed in 30000 ms/);
  bodies[1]?.end();
  expect(await good.outcome).toBe('passed');
  expect(clock.delays).toEqual([]);
});

it('PassThrough lets no slow server take places of others, and refuses the rest', async () => {
  const { bodies, ask, opens } = start();
  const slow = Array.from({ length: 200 }, () => ask('http://slow.example/x'));
  await opens(32);
  expect(await slow.at(-1)?.outcome).toMatch(/^32 answers of slow.example pass and 128 wait/);
  const other = ask('http://Other.example:80/x');
  await opens(33);
  bodies[32]?.end('x');
  expect(await other.outcome).toBe('passed');
  // Those that leave make room in the line at once, and are never asked for.
  for (const { abort } of slow.slice(32, 160)) abort.abort(new Error('gone'));
  expect(await slow[159]?.outcome).toBe('gone');
  const late = ask('http://slow.example/late');
  for (const body of bodies.slice(0, 32)) body.end();
  await opens(34);
  bodies[33]?.end('x');
  expect(await late.outcome).toBe('passed');
  expect(bodies).toHaveLength(34);
});
