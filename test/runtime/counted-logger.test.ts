import { describe, expect, it } from 'vitest';
import { countedLogger } from '../../src/runtime/counted-logger.ts';
import { silentLogger, type LogFields, type Logger } from '../../src/runtime/logger.ts';
import { ManualClock } from '../kit/manual-clock.ts';

function rig() {
  const lines: (LogFields & { readonly text: string })[] = [];
  const clock = new ManualClock();
  const under: Logger = {
    ...silentLogger,
    warn: (fields, text) => void lines.push({ ...fields, text }),
    error: (fields, text) => void lines.push({ ...fields, text }),
    child: () => under,
  };
  return { lines, clock, logger: countedLogger({ clock, logger: under }) };
}

describe('countedLogger()', () => {
  it('writes a flood as three lines, and one a minute with a count', () => {
    const { lines, clock, logger } = rig();
    for (let minute = 0; minute < 10; minute++) {
      for (let i = 0; i < 500; i++) logger.warn({ peer: `p${i}`, reason: 'silent' }, 'peer lost');
      clock.advance(60_000);
    }
    expect(lines.length).toBe(3 + 10);
    const counts = lines.map(({ more }) => Number(more ?? 1));
    expect(counts.reduce((a, b) => a + b)).toBe(5_000);
    // Once it is over, single lines are written as they come.
    clock.advance(60_000);
    logger.warn({ peer: 'p', reason: 'silent' }, 'peer lost');
    expect(lines.at(-1)).toEqual({ peer: 'p', reason: 'silent', text: 'peer lost' });
  });

  it('keeps other reasons, other registries, children and errors apart', () => {
    const { lines, logger } = rig();
    for (let i = 0; i < 9; i++) {
      logger.warn({ code: 'busy' }, 'not stored');
      logger.warn({ code: 'no-space' }, 'not stored');
      logger.child({ registry: 'a' }).warn({}, 'not given');
      logger.child({ registry: 'b' }).warn({}, 'not given');
      logger.error({}, 'wrong content');
    }
    expect(lines.length).toBe(4 * 3 + 9);
  });
});
