import type { BlobOrigin } from '../image/block.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { ExpiringMap } from '../util/expiring-map.ts';
import { RegistryError } from './errors.ts';

/** A repository is named once in this time. */
const TOLD_MS = 60_000;
const TOLD_MAX = 1024;

/** Where this host has credentials from. */
interface CredentialPlaces {
  readonly registries: readonly {
    readonly host: string;
    readonly credentialsFile?: string | undefined;
  }[];
  readonly credentials?:
    | { readonly dockerConfigs: readonly string[]; readonly pullSecrets: readonly string[] }
    | undefined;
}

/**
 * Tells in the log, once a minute, which repositories do not open to the credentials of this host:
 * their images do not come down the trees.
 */
export class OwnRefusals {
  readonly #logger: Logger;
  readonly #places: CredentialPlaces;
  readonly #told: ExpiringMap<true>;

  constructor(
    components: { readonly clock: Clock; readonly logger: Logger },
    init: CredentialPlaces,
  ) {
    this.#logger = components.logger;
    this.#places = init;
    this.#told = new ExpiringMap(components, { entriesMax: TOLD_MAX });
  }

  /** Takes any failure; those that are no refusal say nothing. */
  note({ registry, repository }: BlobOrigin, error: unknown): void {
    if (!(error instanceof RegistryError)) return;
    if (error.code !== 'unauthorized' && error.code !== 'denied') return;
    const key = `${registry}/${repository}`;
    if (this.#told.get(key) !== undefined) return;
    this.#told.set(key, true, TOLD_MS);
    const { registries, credentials } = this.#places;
    const entry = registries.find(({ host }) => host === registry);
    const files = [
      ...(entry?.credentialsFile === undefined ? [] : [entry.credentialsFile]),
      ...(credentials?.dockerConfigs ?? []),
      ...(credentials?.pullSecrets ?? []),
    ];
    const fields = { registry, repository, files, error: error.message };
    this.#logger.warn(
      fields,
      files.length === 0
        ? 'this host has no credentials for a repository that wants some'
        : 'the credentials of this host do not open a repository: none in these files is taken',
    );
  }
}
