import { RegistryError } from './errors.ts';
import { registryName } from './reference.ts';
import type { RegistriesInit } from './registries.ts';
import type { UrlAnswer, UrlClient, UrlRequest } from './url-client.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Metrics } from '../runtime/metrics.ts';

/** A UrlClient that is loaded when it is first used: where all is public, hosts need none, and the HTTP client takes 15 MiB. */
export class LazyUrlClient {
  readonly #components: { readonly clock: Clock; readonly metrics: Metrics };
  readonly #init: RegistriesInit;
  readonly #names: ReadonlySet<string>;
  #client: Promise<UrlClient> | undefined;
  #closed = false;

  constructor(
    components: { readonly clock: Clock; readonly metrics: Metrics },
    init: RegistriesInit,
  ) {
    this.#components = components;
    this.#init = init;
    this.#names = new Set(init.registries.map(({ host }) => registryName(host)));
  }

  /** Whether the host is a registry of the configuration. */
  isConfigured(host: string): boolean {
    return this.#names.has(registryName(host));
  }

  async open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> {
    const client = await this.#load();
    return client.open(request, signal);
  }

  async fill(...init: Parameters<UrlClient['fill']>): Promise<void> {
    const client = await this.#load();
    return client.fill(...init);
  }

  async close(): Promise<void> {
    this.#closed = true;
    const client = await this.#client;
    await client?.close();
  }

  #load(): Promise<UrlClient> {
    if (this.#closed) throw new RegistryError('the registries were closed', { code: 'closed' });
    this.#client ??= import('./url-client.ts').then(
      ({ UrlClient }) => new UrlClient(this.#components, this.#init),
    );
    return this.#client;
  }
}
