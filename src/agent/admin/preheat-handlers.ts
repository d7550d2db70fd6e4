import { parseDigest } from '../../image/digest.ts';
import {
  isFinal,
  preheatNumber,
  type PreheatJob,
  type PreheatService,
  type PreheatSpec,
  type PreheatState,
} from '../../preheat/messages.ts';
import type { Answer, Handlers } from './api.ts';
import { brokenRule } from './check.ts';
import { RequestError } from './errors.ts';
import { preheatFailureText } from './preheat-text.ts';
import { MANIFEST_URL, MANIFEST_URL_RULE } from './requests.ts';
import type { Services } from './services.ts';

/** Events name the manifest of an image by one of these. */
const MANIFEST_MEDIA_TYPE = /manifest|index/;

const DRAGONFLY_1_STATES = {
  waiting: 'WAITING',
  running: 'RUNNING',
  done: 'SUCCESS',
  failed: 'FAILED',
  cancelled: 'FAILED',
} as const satisfies Record<PreheatState, string>;

const DRAGONFLY_2_STATES = {
  waiting: 'PENDING',
  running: 'PENDING',
  done: 'SUCCESS',
  failed: 'FAILURE',
  cancelled: 'FAILURE',
} as const satisfies Record<PreheatState, string>;

/**
 * Preheats: our own requests, and those that Harbor makes of its preheat providers
 * (docs/PREHEAT.md).
 */
export function preheatHandlers(services: Services) {
  const preheats = (): PreheatService => {
    if (services.preheats !== undefined) return services.preheats;
    throw new RequestError('this process preheats nothing: ask an agent', { code: 'no-preheats' });
  };
  return {
    preheat: ({ image, ...spec }) =>
      preheats().start({ ...spec, reference: image.replace(/^docker:\/\//, '') }),
    preheatStatus: ({ id }) => preheats().get(id),
    cancelPreheat: ({ id }) => preheats().cancel(id),
    dragonfly1Health: () => 'OK',
    dragonfly1Start: async (image) => ({ ID: (await preheats().start(specOf(image))).id }),
    dragonfly1Status: async ({ id }) => toDragonfly1Job(await preheats().get(id)),
    dragonfly2Health: () => 'OK',
    dragonfly2Start: async ({ args }) => toDragonfly2Job(await preheats().start(specOf(args))),
    dragonfly2Status: async ({ id }) => toDragonfly2Job(await preheats().get(id)),
    krakenHealth: () => 'OK',
    // Told of a push; Harbor never asks how it went.
    krakenNotify: async ({ events }) => {
      const ids: string[] = [];
      for (const { action, target } of events) {
        const { url = '', mediaType = 'manifest' } = target;
        if (action !== 'push' || !MANIFEST_MEDIA_TYPE.test(mediaType)) continue;
        if (!MANIFEST_URL.test(url)) throw brokenRule('target.url', MANIFEST_URL_RULE);
        ids.push((await preheats().start(specOf({ ...target, url }))).id);
      }
      return { ids };
    },
  } satisfies Partial<Handlers>;
}

function toDragonfly1Job(job: PreheatJob): Answer<'dragonfly1Status'> {
  return {
    ID: job.id,
    status: DRAGONFLY_1_STATES[job.state],
    startTime: timeOf(job.startedMs),
    ...(job.finishedMs !== undefined && { finishTime: timeOf(job.finishedMs) }),
    errorMsg: errorOf(job),
  };
}

function toDragonfly2Job(job: PreheatJob): Answer<'dragonfly2Status'> {
  const error = errorOf(job);
  return {
    id: preheatNumber(job.id),
    type: 'preheat',
    created_at: timeOf(job.startedMs),
    updated_at: timeOf(job.finishedMs ?? job.startedMs),
    state: DRAGONFLY_2_STATES[job.state],
    result: { job_states: error === '' ? [] : [{ error, results: [] }] },
  };
}

function specOf(image: {
  readonly url: string;
  readonly digest?: string;
  readonly scope?: string;
}): PreheatSpec {
  const [, host = '', name = '', tag = ''] = MANIFEST_URL.exec(image.url) ?? [];
  // The digest that Harbor saw: the tag may be another image by the time that a root asks.
  const digest = parseDigest(image.digest ?? '') ?? parseDigest(tag);
  return {
    reference: digest === undefined ? `${host}/${name}:${tag}` : `${host}/${name}@${digest}`,
    part: 'image',
    pin: false,
    ...(image.scope?.startsWith('single_') === true && { count: 1 }),
  };
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString();
}

function errorOf(job: PreheatJob): string {
  return isFinal(job.state) && job.state !== 'done' ? preheatFailureText(job) : '';
}
