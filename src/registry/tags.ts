import type { BlobOrigin } from '../image/block.ts';
import { protocolError } from './errors.ts';
import { CollectingSink } from './http/sinks.ts';
import { nextPage } from './push.ts';
import { isTag } from './reference.ts';
import type { RegistryServer } from './server.ts';

/** Tags of one repository that are read, and bytes of one page of them. */
const TAGS_MAX = 100_000;
const PAGE_BYTES_MAX = 16 * 1024 * 1024;

/**
 * All tags of a repository (distribution spec, "Listing Tags"). Rejects when there are more than
 * can be read: a part of them would prove nothing.
 */
export async function readTags(
  server: RegistryServer,
  origin: BlobOrigin,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const what = `the tags of ${origin.registry}/${origin.repository}`;
  const tags: string[] = [];
  const first = new URL(`/v2/${origin.repository}/tags/list`, server.base);
  for (let url: URL | undefined = first; url !== undefined; ) {
    const { head, sink } = await server.request(
      {
        method: 'GET',
        path: url.href,
        headers: { accept: 'application/json' },
        scope: `repository:${origin.repository}:pull`,
        open: () => new CollectingSink({ what, sizeBytesMax: PAGE_BYTES_MAX }),
      },
      signal,
    );
    tags.push(...tagsIn(sink.bytes(), what));
    if (tags.length > TAGS_MAX)
      throw protocolError('bad-json', `${what} are more than ${TAGS_MAX}`);
    const next = nextPage(head, url);
    if (next?.href === url.href) throw protocolError('bad-json', `${what} never end`);
    url = next;
  }
  return tags;
}

function tagsIn(bytes: Uint8Array, what: string): readonly string[] {
  let tags: unknown;
  try {
    ({ tags } = Object(JSON.parse(new TextDecoder().decode(bytes))) as { tags?: unknown });
  } catch (cause) {
    throw protocolError('bad-json', `${what} are no JSON`, cause);
  }
  // A repository whose last tag has gone has `null`.
  const list: readonly unknown[] = Array.isArray(tags) ? tags : [];
  const sound = list.filter((tag): tag is string => typeof tag === 'string' && isTag(tag));
  if (sound.length === list.length && (Array.isArray(tags) || tags === null)) return sound;
  throw protocolError('bad-json', `${what} are no list of tags`);
}
