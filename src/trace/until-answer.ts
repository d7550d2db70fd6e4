import type { Clock } from '../runtime/clock.ts';
import { within } from '../runtime/deadline.ts';

/** Pause between two questions. (tunable) */
const PAUSE_MS = 50;

/**
 * Longest wait for one answer: the first one of a cold program takes its time, and to ask twice
 * would record what it does for two. (tunable)
 */
const ANSWER_MS = 60_000;

/**
 * Asks a URL until it answers with a status below 500. Rejects with the signal's reason alone.
 */
export async function untilAnswer(
  { clock }: { readonly clock: Clock },
  url: string,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    if (await answers(clock, url, signal)) return;
    await clock.sleep(PAUSE_MS, signal);
  }
}

async function answers(clock: Clock, url: string, signal: AbortSignal): Promise<boolean> {
  try {
    const ask = (limit: AbortSignal) => fetch(url, { redirect: 'manual', signal: limit });
    const answer = await within(clock, ANSWER_MS, ask, { signal });
    await answer.body?.cancel();
    return answer.status < 500;
  } catch {
    return false; // It does not listen yet.
  }
}
