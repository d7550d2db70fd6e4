import type { AcceleratedImage, AccelerationApi } from '../../acceleration/messages.ts';
import { parseReference } from '../../registry/reference.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Answer, Handlers } from './api.ts';
import { RequestError } from './errors.ts';
import { preheatHandlers } from './preheat-handlers.ts';
import type { AgentFacts, DeviceList, MountService, Services, StoreService } from './services.ts';

/**
 * How long one text of metrics is given to all who ask: anyone may, as often as he likes, and each
 * costs a millisecond.
 */
const METRICS_MS = 100;

/** The handlers of all routes. */
export function makeHandlers(services: Services & { readonly clock: Clock }): Handlers {
  const { status, metrics } = services;
  const text = shared(() => metrics.text(), services.clock);
  return {
    live: () => ({ live: true }),
    ready: () => {
      const reason = status.notReady();
      if (reason !== undefined) throw new RequestError(reason, { code: 'not-ready' });
      const notices = status.notices?.() ?? [];
      return { ready: true, ...(notices.length > 0 && { notices }) };
    },
    metrics: text,
    devices: () => ({ devices: devicesOf(services).list() }),
    ...agentHandlers(services),
    ...mountHandlers(services),
    ...storeHandlers(services),
    ...accelerationHandlers(services),
    ...preheatHandlers(services),
  };
}

function agentHandlers({ agent: maybe }: Services) {
  const agent = (): AgentFacts => {
    if (maybe !== undefined) return maybe;
    throw new RequestError('this process is no agent: ask the agent of this host', {
      code: 'no-agent',
    });
  };
  return {
    status: () => agent().status(),
    blobs: () => ({ blobs: agent().blobs() }),
    tree: ({ digest }) => agent().tree(digest),
  } satisfies Partial<Handlers>;
}

function devicesOf({ devices }: Services): DeviceList {
  if (devices !== undefined) return devices;
  throw new RequestError(
    'this process has no devices of containers: ask `xylem device` of this host',
    { code: 'no-devices' },
  );
}

function shared(make: () => Promise<string>, clock: Clock): () => Promise<string> {
  let last: { readonly text: Promise<string>; readonly madeMs: number } | undefined;
  return () => {
    const nowMs = clock.nowMs();
    if (last === undefined || nowMs >= last.madeMs + METRICS_MS) {
      last = { text: make(), madeMs: nowMs };
    }
    return last.text;
  };
}

function mountHandlers(services: Services) {
  const mounts = (): MountService => {
    if (services.mounts !== undefined) return services.mounts;
    throw new RequestError(
      'this agent mounts no images: start `xylem device` on this host, and name its socket ' +
        '(device.adminSocket) with --admin where it is not the usual one; for development ' +
        'device.enabled of the agent does too',
      { code: 'no-devices' },
    );
  };
  return {
    mounts: () => ({ mounts: mounts().list() }),
    mount: ({ image, dir }, signal) => mounts().mount(image, dir, signal),
    unmount: async ({ dir }) => {
      await mounts().unmount(dir);
      return { dir };
    },
  } satisfies Partial<Handlers>;
}

function storeHandlers(services: Services) {
  const store = (): StoreService => {
    if (services.store !== undefined) return services.store;
    throw new RequestError('this process keeps no blocks: ask the agent of this host', {
      code: 'no-store',
    });
  };
  return {
    storeUsage: () => ({ blobs: store().usage() }),
    pin: async ({ what }) => ({ digests: await store().pin(what) }),
    unpin: async ({ what }) => ({ digests: await store().unpin(what) }),
    gc: ({ to }) => store().gc(to),
  } satisfies Partial<Handlers>;
}

function accelerationHandlers(services: Services) {
  const acceleration = (): AccelerationApi => {
    if (services.acceleration !== undefined) return services.acceleration;
    throw new RequestError(
      'this agent accelerates no images: set acceleration.enabled in the configuration of a ' +
        'root, restart it, and ask that one',
      { code: 'no-acceleration' },
    );
  };
  return {
    images: ({ image }) => {
      const name = image === undefined ? undefined : parseReference(image);
      const only = name && `${name.registry}/${name.repository}:${name.tag}`;
      const list = acceleration().list();
      const meant = list.filter((each) => only === undefined || each.image === only);
      const kept = acceleration().kept(name && `${name.registry}/${name.repository}`);
      return { images: meant.map(shownImage), kept };
    },
    accelerate: async ({ image, accelerationType }) =>
      shownImage(await acceleration().set(image, accelerationType)),
  } satisfies Partial<Handlers>;
}

function shownImage({ state, ...image }: AcceleratedImage): Answer<'accelerate'> {
  const shown = image.accelerationType === 'None' ? image : { ...image, state };
  const given = Object.entries(shown).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as Answer<'accelerate'>;
}
