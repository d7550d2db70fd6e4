/**
 * A module beside the one with this URL, for a thread or a process of its own. The sources run as
 * .ts under Node's type stripping, and as .js when built.
 */
export function moduleBeside(url: string, name: string): URL {
  const extension = url.endsWith('.ts') ? 'ts' : 'js';
  return new URL(`./${name}.${extension}`, url);
}
