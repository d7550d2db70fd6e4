import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { parseDigest } from '../../image/digest.ts';
import {
  isFinal,
  PREHEAT_PARTS,
  type PreheatJob,
  type PreheatSpec,
  type PreheatState,
  type PreheatService,
} from '../../preheat/messages.ts';
import { CodedError } from '../../util/errors.ts';
import { preheatFailureText } from './preheat-text.ts';

/** A registry's names and a tag fit; see src/registry/reference.ts. */
const REFERENCE_LENGTH_MAX = 512;
const HOSTS_MAX = 100_000;

const IMAGE = /^docker:\/\/([^\s/]+\/\S+)$/;
const ID = /^[0-9]{1,16}$/;

/** `https://HOST/v2/NAME/manifests/TAG-OR-DIGEST`, as Harbor names an image. */
const MANIFEST_URL = /^https?:\/\/([^/?#\s@]+)\/v2\/([^?#\s]+)\/manifests\/([^/?#\s]+)$/;

/** Harbor's notifications carry one event; registries send some together. */
const EVENTS_MAX = 64;

/** Events name the manifest of an image by one of these. */
const MANIFEST_MEDIA_TYPE = /manifest|index/;

/** A request that cannot be understood. */
class PreheatRequestError extends CodedError<{ readonly code: 'bad-request' }> {}

const specBody = z.strictObject({
  image: z.string().max(REFERENCE_LENGTH_MAX).regex(IMAGE),
  part: z.enum(PREHEAT_PARTS).default('image'),
  pin: z.boolean().default(false),
  zone: z.string().min(1).max(63).optional(),
  count: z.int().min(1).max(HOSTS_MAX).optional(),
});

const RULES: Readonly<Record<string, string>> = {
  image: 'docker://HOST[:PORT]/NAME:TAG',
  part: '"image" or "trace"',
  pin: 'true or false',
  zone: 'the name of a zone',
  count: `a count of hosts from 1 to ${HOSTS_MAX}`,
  type: '"image"',
  url: 'http[s]://HOST[:PORT]/v2/NAME/manifests/TAG-OR-DIGEST',
};

/**
 * What Harbor says of an image. Its `headers` carry credentials of Harbor's robot: they are not read at all, so they are
 * neither used nor kept. The roots have credentials of their own.
 */
const harborImage = z.object({
  type: z.literal('image'),
  url: z.string().max(2048).regex(MANIFEST_URL),
  digest: z.string().max(128).optional(),
  scope: z.string().max(64).optional(),
});

const dragonflyJob = z.object({ type: z.literal('preheat'), args: harborImage });

const krakenNotification = z.object({
  events: z
    .array(
      z.object({
        action: z.string(),
        target: z.object({
          mediaType: z.string().optional(),
          url: z.string().max(2048),
          digest: z.string().max(128).optional(),
        }),
      }),
    )
    .max(EVENTS_MAX),
});

interface Init {
  readonly service: PreheatService;
  /** Throws unless the request may start and end preheats. */
  readonly authorize: (request: FastifyRequest) => void;
}

interface ById {
  readonly Params: { readonly id: string };
}

/** Adds preheats to the admin endpoint: our own requests, and those that Harbor makes of its preheat providers (docs/PREHEAT.md). */
export function addPreheatRoutes(app: FastifyInstance, init: Init): void {
  const { service, authorize } = init;
  const path = '/api/v1/preheat';
  app.post(path, async (request, reply) => {
    authorize(request);
    const { image, zone, count, ...spec } = parse(specBody, request.body);
    const job = await service.start({
      ...spec,
      reference: IMAGE.exec(image)?.[1] ?? '',
      ...(zone !== undefined && { zone }),
      ...(count !== undefined && { count }),
    });
    return reply.code(202).send(job);
  });
  app.get<ById>(`${path}/:id`, (request) => service.get(idOf(request.params)));
  app.delete<ById>(`${path}/:id`, (request) => {
    authorize(request);
    return service.cancel(idOf(request.params));
  });
  addDragonfly1(app, init);
  addDragonfly2(app, init);
  addKraken(app, init);
}

/** Provider "Dragonfly" of older versions of Harbor. */
function addDragonfly1(app: FastifyInstance, { service, authorize }: Init): void {
  app.get('/_ping', () => 'OK');
  app.post('/preheats', async (request) => {
    authorize(request);
    const { id } = await service.start(specOf(parse(harborImage, request.body)));
    return { ID: id };
  });
  app.get<ById>('/preheats/:id', async (request) => {
    const job = await service.get(idOf(request.params));
    const states = {
      waiting: 'WAITING',
      running: 'RUNNING',
      done: 'SUCCESS',
      failed: 'FAILED',
      cancelled: 'FAILED',
    } as const satisfies Record<PreheatState, string>;
    return {
      ID: job.id,
      status: states[job.state],
      startTime: timeOf(job.startedMs),
      ...(job.finishedMs !== undefined && { finishTime: timeOf(job.finishedMs) }),
      errorMsg: errorOf(job),
    };
  });
}

/** Provider "Dragonfly" of newer ones: the jobs of Dragonfly 2's open API. */
function addDragonfly2(app: FastifyInstance, { service, authorize }: Init): void {
  const path = '/oapi/v1/jobs';
  app.get('/healthy', () => 'OK');
  app.post(path, async (request) => {
    authorize(request);
    return toDragonflyJob(await service.start(specOf(parse(dragonflyJob, request.body).args)));
  });
  app.get<ById>(`${path}/:id`, async (request) =>
    toDragonflyJob(await service.get(idOf(request.params))),
  );
}

function toDragonflyJob(job: PreheatJob): object {
  const states = {
    waiting: 'PENDING',
    running: 'PENDING',
    done: 'SUCCESS',
    failed: 'FAILURE',
    cancelled: 'FAILURE',
  } as const satisfies Record<PreheatState, string>;
  const error = errorOf(job);
  return {
    id: Number(job.id),
    type: 'preheat',
    created_at: timeOf(job.startedMs),
    updated_at: timeOf(job.finishedMs ?? job.startedMs),
    state: states[job.state],
    result: { job_states: error === '' ? [] : [{ error, results: [] }] },
  };
}

/** Provider "Kraken": told of a push, it never asks how it went. */
function addKraken(app: FastifyInstance, { service, authorize }: Init): void {
  app.get('/health', () => 'OK');
  app.post('/registry/notifications', async (request) => {
    authorize(request);
    const { events } = parse(krakenNotification, request.body);
    const ids: string[] = [];
    for (const { action, target } of events) {
      const { url, digest, mediaType = 'manifest' } = target;
      if (action !== 'push' || !MANIFEST_MEDIA_TYPE.test(mediaType)) continue;
      if (!MANIFEST_URL.test(url)) throw bad('target.url', RULES['url'] ?? '');
      const job = await service.start(specOf({ url, ...(digest !== undefined && { digest }) }));
      ids.push(job.id);
    }
    return { ids };
  });
}

function specOf(image: {
  readonly url: string;
  readonly digest?: string | undefined;
  readonly scope?: string | undefined;
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

function idOf({ id }: ById['Params']): string {
  if (ID.test(id)) return id;
  throw bad('id', 'the number of a preheat');
}

function parse<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const field = issue?.path.join('.') ?? '';
  const name = String(issue?.path.at(-1) ?? '');
  if (issue?.code === 'unrecognized_keys') {
    throw bad('the body', `without the unknown key ${JSON.stringify(issue.keys[0])}`);
  }
  // Never the value: a body may hold credentials.
  throw bad(field === '' ? 'the body' : field, RULES[name] ?? 'as docs/PREHEAT.md has it');
}

function bad(field: string, rule: string): PreheatRequestError {
  return new PreheatRequestError(`${field} must be ${rule}`, { code: 'bad-request' });
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString();
}

function errorOf(job: PreheatJob): string {
  return isFinal(job.state) && job.state !== 'done' ? preheatFailureText(job) : '';
}
