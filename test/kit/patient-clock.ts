import type { Timer } from '../../src/runtime/clock.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';

/** How many times as long as others this machine takes; emulated ones say so. */
const SLOWNESS = Number(process.env['XYLEM_TEST_SLOWNESS'] ?? 1);

/** A clock whose deadlines give a slow machine its time. */
export class PatientClock extends SystemClock {
  override setTimer(delayMs: number, callback: () => void): Timer {
    return super.setTimer(delayMs * SLOWNESS, callback);
  }
}
