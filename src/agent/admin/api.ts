/*
 * A new route takes three places at most:
 *
 *  1. An entry of API below; the schemas of its requests and answers stand in requests.ts and
 *     answers.ts. The server, the client and docs/ADMIN.md follow from it (`npm run docs` writes
 *     the page).
 *  2. Its handler, of the same name, in handlers.ts or preheat-handlers.ts. The compiler asks for
 *     it.
 *  3. Where people use it: a command in src/agent/commands that calls
 *     `askAgent(admin, 'name', {...})`.
 */

import { z } from 'zod';
import type { Access } from './access.ts';
import {
  acceleratedImage,
  agentStatus,
  blobUsage,
  containerDevice,
  dragonfly1Job,
  dragonfly2Job,
  evicted,
  heldBlob,
  hostName,
  keptInRegistries,
  mountedImage,
  pinned,
  preheatJob,
  treeStatus,
} from './answers.ts';
import {
  accelerateBody,
  dragonfly2Body,
  gcBody,
  harborImage,
  imagesQuery,
  krakenBody,
  mountBody,
  pinBody,
  preheatBody,
  preheatNumberParams,
  preheatParams,
  treeQuery,
  unmountBody,
} from './requests.ts';

/**
 * A route of the admin endpoint. The fields of `params`, `query` and `body` all have different
 * names.
 */
export interface Route {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** `:name` stands for the field `name` of `params`. */
  readonly path: `/${string}`;
  readonly summary: string;
  readonly access: Access;
  readonly params?: z.ZodObject;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodObject;
  /** What is sent may hold credentials: errors name its fields, never their values. */
  readonly isSecret?: true;
  /** `text` is plain text; `metrics` is the exposition format of Prometheus. */
  readonly reply: z.ZodType | 'text' | 'metrics';
  /** Of the answer; 200 when absent. */
  readonly status?: number;
  /** The handler's signal aborts after this long. Routes without it answer from memory. */
  readonly timeoutMs?: number;
}

/**
 * For the first blocks of an image to arrive and the kernel to mount it, or for a disk to remove a
 * full store.
 */
const LONG_MS = 120_000;

/** Every route of the admin endpoint, by name. */
export const API = {
  live: {
    method: 'GET',
    path: '/livez',
    summary: 'Whether the agent runs.',
    access: 'probe',
    reply: z.object({ live: z.literal(true) }),
  },
  ready: {
    method: 'GET',
    path: '/readyz',
    summary:
      'Whether the agent serves images, a root gives it places, and others can reach it; 503 ' +
      'with the reason while not. What is wrong all the same stands in `notices`.',
    access: 'probe',
    reply: z.object({
      ready: z.literal(true),
      notices: z.array(z.string()).readonly().exactOptional(),
    }),
  },
  metrics: {
    method: 'GET',
    path: '/metrics',
    summary: 'Metrics for Prometheus.',
    access: 'metrics',
    reply: 'metrics',
  },
  status: {
    method: 'GET',
    path: '/api/v1/status',
    summary: 'What the agent is and does.',
    access: 'read',
    reply: agentStatus,
  },
  blobs: {
    method: 'GET',
    path: '/api/v1/blobs',
    summary: 'The blobs that the store holds blocks of.',
    access: 'read',
    reply: z.object({ blobs: z.array(heldBlob).readonly() }),
  },
  tree: {
    method: 'GET',
    path: '/api/v1/tree',
    summary: 'The places of this host in the trees of the blobs that it reads.',
    access: 'read',
    query: treeQuery,
    reply: z.object({
      trees: z.array(treeStatus).readonly(),
      hosts: z.array(hostName).readonly().describe('who the peers of the trees are'),
    }),
  },
  mounts: {
    method: 'GET',
    path: '/api/v1/mounts',
    summary: 'The images that are mounted.',
    access: 'read',
    reply: z.object({ mounts: z.array(mountedImage).readonly() }),
  },
  devices: {
    method: 'GET',
    path: '/api/v1/devices',
    summary: 'The block devices of containers, of `xylem device`.',
    access: 'read',
    reply: z.object({ devices: z.array(containerDevice).readonly() }),
  },
  mount: {
    method: 'POST',
    path: '/api/v1/mounts',
    summary: 'Mounts an image; its blocks arrive as they are touched.',
    access: 'change',
    body: mountBody,
    reply: mountedImage,
    timeoutMs: LONG_MS,
  },
  unmount: {
    method: 'DELETE',
    path: '/api/v1/mounts',
    summary: 'Unmounts what the agent mounted; does nothing when nothing is there.',
    access: 'change',
    body: unmountBody,
    reply: z.object({ dir: z.string() }),
    timeoutMs: LONG_MS,
  },
  storeUsage: {
    method: 'GET',
    path: '/api/v1/store',
    summary: 'The blobs in the store, most recently used first, and why each is kept.',
    access: 'read',
    reply: z.object({ blobs: z.array(blobUsage).readonly() }),
  },
  pin: {
    method: 'POST',
    path: '/api/v1/store/pins',
    summary: 'Keeps a blob or an image longest.',
    access: 'change',
    body: pinBody,
    reply: pinned,
    timeoutMs: LONG_MS,
  },
  unpin: {
    method: 'DELETE',
    path: '/api/v1/store/pins',
    summary: 'Keeps a blob or an image no longer than others.',
    access: 'change',
    body: pinBody,
    reply: pinned,
    timeoutMs: LONG_MS,
  },
  gc: {
    method: 'POST',
    path: '/api/v1/store/gc',
    summary: 'Evicts what is neither mounted, pinned nor in use, least recently used first.',
    access: 'change',
    body: gcBody,
    reply: evicted,
    timeoutMs: LONG_MS,
  },
  preheat: {
    method: 'POST',
    path: '/api/v1/preheat',
    summary: 'Starts to bring an image to hosts.',
    access: 'change',
    body: preheatBody,
    isSecret: true,
    reply: preheatJob,
    status: 202,
  },
  preheatStatus: {
    method: 'GET',
    path: '/api/v1/preheat/:id',
    summary: 'How far a preheat is.',
    access: 'read',
    params: preheatParams,
    reply: preheatJob,
  },
  cancelPreheat: {
    method: 'DELETE',
    path: '/api/v1/preheat/:id',
    summary: 'Ends a preheat. What has come stays where it is.',
    access: 'change',
    params: preheatParams,
    reply: preheatJob,
  },
  images: {
    method: 'GET',
    path: '/api/v1/images',
    summary:
      'The images that this root accelerates, how far each is, and what it keeps in registries.',
    access: 'read',
    query: imagesQuery,
    reply: z.object({
      images: z.array(acceleratedImage).readonly(),
      kept: keptInRegistries.describe('what this root has put into registries'),
    }),
  },
  accelerate: {
    method: 'POST',
    path: '/api/v1/images',
    summary: 'Starts to make block images of an image, or ends that.',
    access: 'change',
    body: accelerateBody,
    reply: acceleratedImage,
    status: 202,
  },
  dragonfly1Health: {
    method: 'GET',
    path: '/_ping',
    summary: "Harbor's test of a Dragonfly before Harbor 2.12.",
    access: 'probe',
    reply: 'text',
  },
  dragonfly1Start: {
    method: 'POST',
    path: '/preheats',
    summary: 'Starts a preheat, as Harbor before 2.12 asks Dragonfly.',
    access: 'change',
    body: harborImage,
    isSecret: true,
    reply: z.object({ ID: z.string() }),
  },
  dragonfly1Status: {
    method: 'GET',
    path: '/preheats/:id',
    summary: 'How far a preheat is, as Harbor before 2.12 asks Dragonfly.',
    access: 'read',
    params: preheatParams,
    reply: dragonfly1Job,
  },
  dragonfly2Health: {
    method: 'GET',
    path: '/healthy',
    summary: "Harbor's test of a Dragonfly from Harbor 2.12 on.",
    access: 'probe',
    reply: 'text',
  },
  dragonfly2Start: {
    method: 'POST',
    path: '/oapi/v1/jobs',
    summary: 'Starts a preheat, as Harbor from 2.12 on asks Dragonfly.',
    access: 'change',
    body: dragonfly2Body,
    isSecret: true,
    reply: dragonfly2Job,
  },
  dragonfly2Status: {
    method: 'GET',
    path: '/oapi/v1/jobs/:id',
    summary: 'How far a preheat is, as Harbor from 2.12 on asks Dragonfly.',
    access: 'read',
    params: preheatNumberParams,
    reply: dragonfly2Job,
  },
  krakenHealth: {
    method: 'GET',
    path: '/health',
    summary: "Harbor's test of a Kraken.",
    access: 'probe',
    reply: 'text',
  },
  krakenNotify: {
    method: 'POST',
    path: '/registry/notifications',
    summary:
      'Starts a preheat of each image that was pushed, as Harbor asks Kraken and registries ' +
      'send their notifications.',
    access: 'change',
    body: krakenBody,
    isSecret: true,
    reply: z.object({ ids: z.array(z.string()) }),
  },
} as const satisfies Readonly<Record<string, Route>>;

/** A route of the table. */
export type RouteName = keyof typeof API;

/** The routes in the order of the table. */
export const ROUTE_NAMES = Object.keys(API) as readonly RouteName[];

type Table = typeof API;
type Schema<N extends RouteName, K extends 'params' | 'query' | 'body'> =
  Table[N] extends Readonly<Record<K, infer S extends z.ZodObject>> ? S : z.ZodType<object, object>;

/** What a client gives a route: the fields of its path, query and body. */
export type Given<N extends RouteName> = z.input<Schema<N, 'params'>> &
  z.input<Schema<N, 'query'>> &
  z.input<Schema<N, 'body'>>;

/** What a handler takes: the same, checked. */
export type Taken<N extends RouteName> = z.output<Schema<N, 'params'>> &
  z.output<Schema<N, 'query'>> &
  z.output<Schema<N, 'body'>>;

/** What a route answers with. */
export type Answer<N extends RouteName> = Table[N]['reply'] extends infer S extends z.ZodType
  ? z.output<S>
  : string;

/**
 * What answers each route. The signal aborts when the client goes away or the time of the route is
 * over.
 */
export type Handlers = {
  readonly [N in RouteName]: (
    taken: Taken<N>,
    signal: AbortSignal,
  ) => Answer<N> | Promise<Answer<N>>;
};

/** The path of a route with its parameters in place. */
export function pathOf(route: Route, given: Readonly<Record<string, unknown>>): string {
  return route.path.replace(/:(\w+)/g, (_, name: string) =>
    encodeURIComponent(String(given[name])),
  );
}
