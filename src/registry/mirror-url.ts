import { isRegistryHost } from './hosts.ts';

/** Where the distribution API of a registry begins. */
export const API_ROOT = '/v2';

const MIRROR_URL = /^https?:\/\/([^/?#@]+)((?:\/[\w~-][\w.~-]*)*)\/?$/;

/** Whether the text is the URL of a mirror: `http[s]://HOST[:PORT][/PATH]`. */
export function isMirrorUrl(text: string): boolean {
  const match = MIRROR_URL.exec(text);
  return match !== null && isRegistryHost(match[1] ?? '');
}

/**
 * Where the API of a mirror may begin, the likeliest place first. A path that holds `v2` says it,
 * as with containerd's `override_path`: repositories are below it. Of another path both ways are
 * tried: `PATH/v2`, as containerd has it, and `/v2/PATH`, as image names have it.
 */
export function apiRoots(mirror: string): readonly string[] {
  const path = MIRROR_URL.exec(mirror)?.[2] ?? '';
  if (path === '') return [API_ROOT];
  const isRoot = path.split('/').includes('v2');
  return isRoot ? [path] : [`${path}${API_ROOT}`, `${API_ROOT}${path}`];
}

/** The part of a root that registries take for the first part of a repository's name. */
export function nameWithin(root: string): string {
  return /\/v2\/(.+)$/.exec(root)?.[1] ?? '';
}

/** Where clients are challenged: the root up to its `v2`. */
export function pingPath(root: string): string {
  return `${/^.*?\/v2(?=\/|$)/.exec(root)?.[0] ?? API_ROOT}/`;
}
