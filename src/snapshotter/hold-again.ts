import type { Clock } from '../runtime/clock.ts';
import { within } from '../runtime/deadline.ts';
import type { SnapshotRecord } from './catalog/snapshot.ts';

/** Devices that are mounted again at a time after the start: each mount is a process. */
const HOLDS_PARALLEL_MAX = 8;

/** Longest wait for one of them, in milliseconds: a mount reads a few blocks. */
const HOLD_AGAIN_MS_MAX = 60_000;

/**
 * Takes hold of the devices of open snapshots again: before it returns, of all that are mounted, so
 * that no call unmounts one that others have; then of the rest, which do not wait for each other.
 * Never rejects.
 */
export async function holdAgain(
  records: readonly SnapshotRecord[],
  how: {
    readonly clock: Clock;
    /** Whether the snapshot has its hold again, on a device that is mounted. */
    readonly resume: (record: SnapshotRecord) => boolean;
    readonly hold: (record: SnapshotRecord, signal: AbortSignal) => Promise<unknown>;
    readonly onFailure: (record: SnapshotRecord, error: unknown) => void;
  },
): Promise<void> {
  const { clock, resume, hold, onFailure } = how;
  const rest = records.filter((record) => !isResumed(record, resume)).values();
  const holdNext = async (): Promise<void> => {
    for (const record of rest) {
      try {
        await within(clock, HOLD_AGAIN_MS_MAX, (signal) => hold(record, signal));
      } catch (error) {
        onFailure(record, error);
      }
    }
  };
  await Promise.all(Array.from({ length: HOLDS_PARALLEL_MAX }, holdNext));
}

function isResumed(record: SnapshotRecord, resume: (record: SnapshotRecord) => boolean): boolean {
  try {
    return resume(record);
  } catch {
    return false; // Its hold says why.
  }
}
