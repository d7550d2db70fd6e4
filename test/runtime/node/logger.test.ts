import { describe, expect, it } from 'vitest';
import { jsonLogger, type LogLevel } from '../../../src/runtime/node/logger.ts';
import { CodedError } from '../../../src/util/errors.ts';

function capture(level: LogLevel) {
  const lines: Record<string, unknown>[] = [];
  const destination = { write: (line: string) => void lines.push(JSON.parse(line)) };
  return { logger: jsonLogger({ level, destination }), lines };
}

describe('jsonLogger', () => {
  it('jsonLogger() writes one JSON object per line with level, fields and message', () => {
    const { logger, lines } = capture('info');
    logger.child({ part: 'store' }).warn({ blockCount: 3 }, 'blocks lost');
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({
      level: 'warn',
      part: 'store',
      blockCount: 3,
      msg: 'blocks lost',
    });
    expect(lines[0]?.['time']).toMatch(/^\d{4}-\d\d-\d\dT/);
  });

  it('jsonLogger() drops lines below its level', () => {
    const { logger, lines } = capture('warn');
    logger.debug({}, 'a');
    logger.info({}, 'b');
    logger.error({}, 'c');
    expect(lines.map((line) => line['msg'])).toEqual(['c']);
  });

  it('jsonLogger() writes the data of an error, and its cause', () => {
    const { logger, lines } = capture('info');
    const error = new CodedError(
      'cannot do it',
      { code: 'io' },
      { cause: new Error('the disk burns') },
    );
    logger.error({ error }, 'failed');
    expect(lines[0]?.['error']).toMatchObject({ detail: { code: 'io' } });
    expect(JSON.stringify(lines[0])).toContain('the disk burns');
  });
});
