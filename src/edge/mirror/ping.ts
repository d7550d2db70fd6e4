import { registryServer } from '../../registry/reference.ts';
import type { UrlAnswer, UrlRequest } from '../../registry/url-client.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import { meantRegistry, type KnownRegistries } from './meant-registry.ts';

/**
 * Longest wait for the registry; without its answer the client is told that no credentials are
 * wanted.
 */
const ASK_MS_MAX = 3_000;

/** How a registry wants to be shown credentials seldom changes. (tunable) */
const REMEMBERED_MS = 300_000;

interface Components {
  readonly urls: { open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> };
  readonly clock: Clock;
}

/**
 * What the mirror says to `GET /v2/`. Clients such as skopeo learn from it whether to show
 * credentials, and how; so the challenge of the registry is passed on, when it is plain which one
 * is meant: `/v2/` names none.
 */
export class MirrorPing {
  readonly #parts: Components;
  readonly #url: string | undefined;
  readonly #known: ExpiringMap<readonly string[]>;

  constructor(components: Components, init: KnownRegistries) {
    this.#parts = components;
    this.#known = new ExpiringMap(components, { entriesMax: 1 });
    const meant = meantRegistry(init);
    if (meant !== undefined) this.#url = `${meant.scheme}://${registryServer(meant.name)}/v2/`;
  }

  /**
   * The WWW-Authenticate headers of the registry to somebody without credentials; empty when it
   * wants none, or cannot be asked.
   */
  async challenges(): Promise<readonly string[]> {
    const url = this.#url;
    if (url === undefined) return [];
    const known = this.#known.get(url);
    if (known !== undefined) return known;
    const { clock, urls } = this.#parts;
    try {
      const answer = await within(clock, ASK_MS_MAX, (signal) =>
        urls.open({ method: 'GET', url, headers: {} }, signal),
      );
      answer.body.destroy();
      const header: string | readonly string[] = answer.headers['www-authenticate'] ?? [];
      const challenges = typeof header === 'string' ? [header] : header;
      const wanted = answer.status === 401 ? challenges : [];
      this.#known.set(url, wanted, REMEMBERED_MS);
      return wanted;
    } catch {
      return this.#known.getStale(url) ?? [];
    }
  }
}
