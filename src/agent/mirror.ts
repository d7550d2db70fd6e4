import { BlockImages } from '../edge/mirror/block-images.ts';
import { MirrorEndpoint } from '../edge/mirror/endpoint.ts';
import type { Manifests } from '../edge/mirror/manifests.ts';
import { OwnAnswer } from '../edge/mirror/own-answer.ts';
import { MirrorPing } from '../edge/mirror/ping.ts';
import type { Edge } from '../edge/edge.ts';
import type { RegistryAccess } from '../registry/registry-access.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Config } from './config/config-schema.ts';

/** The registry mirror of the local endpoint. */
export function makeMirror(
  components: {
    readonly clock: Clock;
    readonly logger: Logger;
    readonly metrics: Metrics;
    readonly manifests: Manifests;
    readonly registries: RegistryAccess;
  },
  { registries }: Config,
  { gate, sender }: Edge,
): MirrorEndpoint {
  const { clock } = components;
  const { urls } = components.registries;
  const parts = {
    ...components,
    blockImages: new BlockImages(components),
    gate,
    ping: new MirrorPing({ urls, clock }, { registries }),
    ownAnswer: new OwnAnswer({ urls, clock }),
    sender,
  };
  return new MirrorEndpoint(parts, { registries });
}
