import { registryName } from '../../registry/reference.ts';

/** What the configuration says of registries. */
export interface KnownRegistries {
  readonly registries: readonly { readonly host: string; readonly insecure: boolean }[];
  /** Meant by clients that name none. */
  readonly defaultRegistry?: string | undefined;
}

/** A registry, and how it is reached. */
export interface MeantRegistry {
  /** Its name, as `registryName()` gives it. */
  readonly name: string;
  readonly scheme: 'http' | 'https';
}

/**
 * The registry that a client means which names none: the one that the configuration says, else the
 * only one that it has.
 */
export function meantRegistry(known: KnownRegistries): MeantRegistry | undefined {
  const [only, ...others] = known.registries;
  const host = known.defaultRegistry ?? (others.length === 0 ? only?.host : undefined);
  if (host === undefined) return undefined;
  const name = registryName(host);
  const entry = known.registries.find((each) => registryName(each.host) === name);
  return { name, scheme: entry?.insecure === true ? 'http' : 'https' };
}
