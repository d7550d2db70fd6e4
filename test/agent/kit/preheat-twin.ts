import {
  type PreheatService,
  PreheatError,
  type PreheatJob,
  type PreheatSpec,
} from '../../../src/preheat/messages.ts';
import { peerId } from '../../../src/util/peer-id.ts';

/** The id of the twin's one preheat, and its number: the first 52 bits. */
export const PREHEAT_ID = 'fedcba9876543210fedcba9876543210';
export const PREHEAT_NUMBER = 0xfedcba9876543;

/** Preheats in the state that a test sets. */
export class PreheatTwin implements PreheatService {
  readonly specs: PreheatSpec[] = [];
  changes: Partial<PreheatJob> = {};
  fails: PreheatError | undefined;
  readonly cancelled: string[] = [];
  looks = 0;

  async start(spec: PreheatSpec): Promise<PreheatJob> {
    if (this.fails !== undefined) throw this.fails;
    this.specs.push(spec);
    return this.#job();
  }

  async get(id: string): Promise<PreheatJob> {
    this.looks++;
    if (id !== PREHEAT_ID && id !== String(PREHEAT_NUMBER))
      throw new PreheatError('no such preheat', { code: 'not-found' });
    return this.#job();
  }

  async cancel(id: string): Promise<PreheatJob> {
    this.cancelled.push(id);
    this.changes = { state: 'cancelled' };
    return this.#job();
  }

  #job(): PreheatJob {
    const spec = this.specs[0] ?? { reference: 'r.example/team/app:1', part: 'image', pin: false };
    const known = { id: PREHEAT_ID, spec, state: 'running', startedMs: 1000 } as const;
    return { ...known, missing: [], hosts: [], ...this.changes };
  }
}

/** A preheat of two hosts that have all of the image. */
export const DONE: Partial<PreheatJob> = {
  state: 'done',
  finishedMs: 3500,
  hosts: [
    { peer: peerId('a'), zone: 'z', state: 'done', doneBytes: 5, totalBytes: 5 },
    { peer: peerId('b'), zone: 'z', state: 'done', doneBytes: 5, totalBytes: 5 },
  ],
};
/** A preheat that one of two hosts failed. */
export const FAILED: Partial<PreheatJob> = {
  state: 'failed',
  failure: 'hosts',
  finishedMs: 3500,
  hosts: [
    { peer: peerId('a'), zone: 'z', state: 'done', doneBytes: 5, totalBytes: 5 },
    { peer: peerId('b'), zone: 'z', state: 'failed', failure: 'lost', doneBytes: 1, totalBytes: 5 },
  ],
};
