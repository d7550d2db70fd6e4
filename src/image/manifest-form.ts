import { INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES } from './manifest.ts';

/** Names of content in general. A manifest under one of them has to be of the first schema. */
const GENERAL = /^(?!application\/)|^application\/(?:json|octet-stream|xml|xhtml\+xml)$/;

/** Lists and objects by which a manifest is known, beside its schema and its media type. */
const PARTS = ['manifests', 'layers', 'config'] as const;

type Json = Readonly<Record<string, unknown>>;

/**
 * Why the bytes are no manifest of any kind, or undefined when they may be one. Servers send pages,
 * errors and broken files with status 200.
 */
export function contentFault(bytes: Uint8Array): string | undefined {
  const json = readObject(bytes);
  if (json === undefined) return bytes.length === 0 ? 'it is empty' : 'it is no JSON object';
  const isNamed = typeof json['schemaVersion'] === 'number' || ownType(json) !== undefined;
  if (isNamed || PARTS.some((part) => isThere(json[part]))) return undefined;
  return 'it names no schema, no media type, and no parts of an image';
}

/**
 * Why a manifest must not be kept or passed on as this media type: clients go by it, and the next
 * one is given the same by the digest. Undefined when nothing is wrong.
 */
export function manifestFault(bytes: Uint8Array, mediaType: string): string | undefined {
  const fault = contentFault(bytes);
  const json = readObject(bytes);
  if (fault !== undefined || json === undefined) return fault;
  const type = mediaType.toLowerCase();
  const own = ownType(json)?.toLowerCase();
  const isOther = own !== undefined && own !== type;
  if (isOther && (kindOf(own) === undefined || kindOf(own) !== kindOf(type))) {
    return `it is ${JSON.stringify(own.slice(0, 100))}, and sent as ${quoted(type)}`;
  }
  const isFirst = json['schemaVersion'] === 1;
  if (own === undefined && !isFirst && GENERAL.test(type)) return `it is sent as ${quoted(type)}`;
  const hasImage = isFilled(json['layers']) || isFilled(json['config']);
  const isMixed = kindOf(type) === 'index' ? hasImage : isFilled(json['manifests']);
  if (kindOf(type) === undefined || !isMixed) return undefined;
  return `its parts are not those of ${quoted(type)}`;
}

/** The media type that a manifest has where the server names none; empty when it tells none. */
export function typeWithin(bytes: Uint8Array): string {
  const json = readObject(bytes) ?? {};
  const own = ownType(json);
  if (own !== undefined) return own;
  if (isThere(json['manifests'])) return INDEX_MEDIA_TYPES[0];
  return isThere(json['layers']) || isThere(json['config']) ? MANIFEST_MEDIA_TYPES[0] : '';
}

/** The JSON object in the bytes; undefined when they hold none. */
export function readObject(bytes: Uint8Array): Json | undefined {
  try {
    const json: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    return typeof json === 'object' && json !== null && !Array.isArray(json)
      ? (json as Json)
      : undefined;
  } catch {
    return undefined;
  }
}

function isThere(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

/** Whether a part says something: encoders of Go leave null and empty where there is nothing. */
function isFilled(value: unknown): boolean {
  return Object.keys(Object(value)).length > 0;
}

function ownType({ mediaType }: Json): string | undefined {
  return typeof mediaType === 'string' && mediaType !== '' ? mediaType : undefined;
}

function kindOf(type: string): 'image' | 'index' | undefined {
  if (INDEX_MEDIA_TYPES.some((each) => each === type)) return 'index';
  return MANIFEST_MEDIA_TYPES.some((each) => each === type) ? 'image' : undefined;
}

function quoted(type: string): string {
  return JSON.stringify(type.slice(0, 100));
}
