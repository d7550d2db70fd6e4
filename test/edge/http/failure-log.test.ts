import { expect, it } from 'vitest';
import { BlobError } from '../../../src/edge/http/blob-error.ts';
import { FailureLog } from '../../../src/edge/http/failure-log.ts';
import { silentLogger, type LogFields } from '../../../src/runtime/logger.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

function start() {
  const clock = new ManualClock();
  const lines: { level: string; fields: LogFields; message: string }[] = [];
  const note =
    (level: string) =>
    (fields: LogFields, message: string): void =>
      void lines.push({ level, fields, message });
  const logger = { ...silentLogger, warn: note('warn'), error: note('error') };
  return { clock, lines, log: new FailureLog({ clock, logger }, { message: 'not read' }) };
}

it('FailureLog.note() writes five lines a second, and how many more there were', () => {
  const { clock, lines, log } = start();
  const error = new BlobError('no', { code: 'unavailable' });
  for (let i = 0; i < 1000; i++) log.note(error, { digest: i });
  expect(lines.map(({ fields }) => fields['digest'])).toEqual([0, 1, 2, 3, 4]);
  clock.advance(1000);
  expect(lines.at(-1)).toMatchObject({ level: 'warn', fields: { suppressed: 995 } });
  log.note(error, { digest: 1000 });
  expect(lines).toHaveLength(7);
  expect(clock.delays).toEqual([]);
});

it('FailureLog.note() writes a stack of mistakes of the agent alone', () => {
  const { lines, log } = start();
  const cause = new Error('refused');
  log.note(new BlobError('no', { code: 'unavailable' }, { cause }), { digest: 'a' });
  log.note(new TypeError('x is undefined'), {});
  expect(lines).toEqual([
    { level: 'warn', fields: { digest: 'a', error: 'no', cause: 'refused' }, message: 'not read' },
    { level: 'error', fields: { error: expect.any(TypeError) }, message: 'not read' },
  ]);
});
