import { existsSync, readFileSync } from 'node:fs';

/** All user ids: the mapping outside of user namespaces. */
const ALL_IDS = /^\s*0\s+0\s+4294967295\s*$/;

/**
 * Options that overlayfs needs on this host: without an index, which would refuse lower folders
 * that several containers share, and with attributes of users in a user namespace.
 */
export function overlayOptions(): readonly string[] {
  const hasIndex = existsSync('/sys/module/overlay/parameters/index');
  const isNamespaced = !ALL_IDS.test(readFileSync('/proc/self/uid_map', 'utf8'));
  return [...(hasIndex ? ['index=off'] : []), ...(isNamespaced ? ['userxattr'] : [])];
}
