import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import { RegistryClient } from './client.ts';
import { registryMetrics } from './metrics.ts';
import { Rangeless } from './http/whole-reads.ts';
import { Registries, type RegistriesInit } from './registries.ts';
import { UrlSender } from './url-sender.ts';

interface Components {
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  readonly metrics: Metrics;
}

/**
 * The registries, and the three ways to see them: with the agent's credentials, with none, and with
 * those that a local client shows.
 */
export interface RegistryViews {
  readonly registries: Registries;
  readonly own: RegistryClient;
  readonly nobody: RegistryClient;
  readonly clients: UrlSender;
}

/** Makes the views over one set of registries. Importing this file loads the HTTP client. */
export function makeViews(components: Components, init: RegistriesInit): RegistryViews {
  const { clock, metrics } = components;
  const registries = new Registries({ clock, metrics: registryMetrics(metrics) }, init);
  const shared = { ...components, registries, rangeless: new Rangeless(components) };
  return {
    registries,
    own: new RegistryClient(shared, { view: 'own' }),
    nobody: new RegistryClient(shared, { view: 'nobody' }),
    clients: new UrlSender(shared),
  };
}
