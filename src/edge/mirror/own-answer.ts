import { MANIFEST_ACCEPT } from '../../image/manifest.ts';
import type { UrlAnswer, UrlRequest } from '../../registry/url-client.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import { errorText } from '../../util/errors.ts';
import { AccessError, refusalOf } from '../access/access-error.ts';
import type { BlobAddress } from '../access/contract.ts';

/**
 * Longest wait for the registry: with what was waited before it stays below the deadline of the
 * mirror.
 */
const ASK_MS_MAX = 3_000;

interface Components {
  readonly urls: { open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer> };
  readonly clock: Clock;
}

/**
 * What a registry says to exactly the credentials of a client, about something that has no digest
 * yet.
 */
export class OwnAnswer {
  readonly #parts: Components;

  constructor(components: Components) {
    this.#parts = components;
  }

  /**
   * Resolves when the registry lets the client read what the URL names. Rejects with AccessError,
   * or with the signal's reason.
   */
  async check(
    address: BlobAddress,
    authorization: string | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const answer = await this.#ask(address, authorization, signal);
    answer.body.destroy();
    if (answer.status !== 200) throw refusalOf(answer, address);
  }

  async #ask(
    { url }: BlobAddress,
    authorization: string | undefined,
    signal: AbortSignal,
  ): Promise<UrlAnswer> {
    const headers = {
      // Without it some registries say that a manifest of a newer kind is not there.
      accept: MANIFEST_ACCEPT,
      ...(authorization !== undefined && { authorization }),
    };
    const { clock, urls } = this.#parts;
    try {
      const ask = (late: AbortSignal): Promise<UrlAnswer> =>
        urls.open({ method: 'HEAD', url, headers }, late);
      return await within(clock, ASK_MS_MAX, ask, { signal });
    } catch (cause) {
      signal.throwIfAborted();
      const text = `the right to read could not be checked: ${errorText(cause)}`;
      throw new AccessError(text, { code: 'unchecked' }, { cause });
    }
  }
}
