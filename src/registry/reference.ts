import type { BlobOrigin } from '../image/block.ts';
import { parseDigest, type Digest } from '../image/digest.ts';
import { RegistryError } from './errors.ts';
import { isRegistryHost } from './hosts.ts';

/** Where an image is, and which one. */
export interface ImageReference extends BlobOrigin {
  readonly tag: string | undefined;
  /** Wins over the tag when both are given. */
  readonly digest: Digest | undefined;
}

/**
 * Docker Hub: the registry of names without a host, its other names, and the host that answers for
 * it.
 */
const DEFAULT_REGISTRY = 'docker.io';
const DEFAULT_REGISTRY_SERVER = 'registry-1.docker.io';
const DEFAULT_REGISTRY_ALIASES: readonly string[] = ['index.docker.io', DEFAULT_REGISTRY_SERVER];

/** What a reference without a tag and a digest means to every client. */
const DEFAULT_TAG = 'latest';

/** One part of a <name>, and a tag (distribution spec, version 1.1, "Pulling manifests"). */
const NAME_PART = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/;
const TAG_RULE = 'a tag is 1 to 128 letters, digits, "_", "." and "-", not first "." or "-"';

/** The same place of the spec: many clients limit host and name together to 255 characters. */
const NAME_LENGTH_MAX = 255;

/** 255 for the name, 129 for a tag, 72 for a digest, and the scheme. */
const REFERENCE_LENGTH_MAX = 512;

/**
 * Reads `[docker://][host[:port]/]name[:tag][@sha256:...]`. Without a host the registry is
 * docker.io, where a name of one part is in `library/`; without tag and digest the tag is `latest`.
 * Throws RegistryError (`invalid-reference`).
 */
export function parseReference(text: string): ImageReference {
  if (text.length > REFERENCE_LENGTH_MAX) {
    const start = `${text.slice(0, 64)}...`;
    throw invalid(start, `it has more than ${REFERENCE_LENGTH_MAX} characters`);
  }
  const [rest, digestText] = cut(text.replace(/^docker:\/\//, ''), '@');
  const digest = digestText === undefined ? undefined : parseDigest(digestText);
  if (digestText !== undefined && digest === undefined) {
    throw invalid(text, 'after "@" there must be "sha256:" and 64 lower-case hex digits');
  }
  // A colon after the last slash starts a tag; one before it, a port.
  const slash = rest.lastIndexOf('/');
  const [last, tag] = cut(rest.slice(slash + 1), ':');
  if (tag !== undefined && !TAG.test(tag)) {
    throw invalid(text, TAG_RULE);
  }
  const origin = parseName(rest.slice(0, slash + 1) + last);
  const why = originFault(origin);
  if (why !== undefined) throw invalid(text, why);
  return { ...origin, tag: tag ?? (digest === undefined ? DEFAULT_TAG : undefined), digest };
}

/**
 * Checks names that came from elsewhere than `parseReference()`, such as another host, before they
 * stand in a URL. Throws RegistryError.
 */
export function checkOrigin(origin: BlobOrigin): void {
  const why = originFault(origin);
  if (why === undefined) return;
  throw invalid(`${origin.registry}/${origin.repository}`.slice(0, REFERENCE_LENGTH_MAX), why);
}

/** Whether the text is a tag as the distribution spec has it. */
export function isTag(text: string): boolean {
  return TAG.test(text);
}

/** Checks a tag before it stands in a URL. Throws RegistryError. */
export function checkTag(tag: string): void {
  if (!isTag(tag)) throw invalid(tag.slice(0, REFERENCE_LENGTH_MAX), TAG_RULE);
}

/** Checks a tag or a digest before it stands in a URL. Throws RegistryError. */
export function checkTagOrDigest(text: string): void {
  if (parseDigest(text) === undefined) checkTag(text);
}

/** Whether the text is a `<name>` as the distribution spec has it. */
export function isRepository(text: string): boolean {
  return text.length <= NAME_LENGTH_MAX && text.split('/').every((part) => NAME_PART.test(part));
}

/** The one name of a registry that may be called by several, in lower case. */
export function registryName(registry: string): string {
  const name = registry.toLowerCase();
  return DEFAULT_REGISTRY_ALIASES.includes(name) ? DEFAULT_REGISTRY : name;
}

/** `host[:port]` that answers for a registry. */
export function registryServer(registry: string): string {
  const name = registryName(registry);
  return name === DEFAULT_REGISTRY ? DEFAULT_REGISTRY_SERVER : name;
}

function parseName(name: string): BlobOrigin {
  const [first, rest] = cut(name, '/');
  const isHost = rest !== undefined && (/[.:[]/.test(first) || first === 'localhost');
  const registry = registryName(isHost ? first : DEFAULT_REGISTRY);
  const repository = isHost ? rest : name;
  const isShort = registry === DEFAULT_REGISTRY && !repository.includes('/');
  return { registry, repository: isShort ? `library/${repository}` : repository };
}

/** What is wrong with the names, or undefined. */
function originFault({ registry, repository }: BlobOrigin): string | undefined {
  if (registry.length + 1 + repository.length > NAME_LENGTH_MAX) {
    return `host and name have more than ${NAME_LENGTH_MAX} characters`;
  }
  if (!isRegistryHost(registry)) return `${JSON.stringify(registry)} is no HOST or HOST:PORT`;
  const wrong = repository.split('/').find((part) => !NAME_PART.test(part));
  if (wrong === undefined) return undefined;
  return (
    `${JSON.stringify(wrong)} is no part of a name: ` +
    `lower-case letters and digits, set apart by ".", "_", "__" or "-"`
  );
}

/** The text before the first separator and the text after it. */
function cut(text: string, separator: string): readonly [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + separator.length)];
}

function invalid(reference: string, why: string): RegistryError {
  return new RegistryError(
    `${JSON.stringify(reference)} names no image: ${why}; ` +
      `write for instance registry.example:5000/team/app:1.4`,
    { code: 'invalid-reference', reference },
  );
}
