import { z } from 'zod';
import { formatSizeBytes } from '../../util/sizes.ts';
import { configSchema } from './config-schema.ts';

/** One key of the configuration: its three spellings and its texts. */
export interface ConfigKey {
  /** `store.dir` */
  readonly name: string;
  readonly path: readonly string[];
  /** `--store.dir` */
  readonly flag: string;
  /** `XYLEM_STORE_DIR` */
  readonly variable: string;
  readonly kind: 'boolean' | 'list' | 'text';
  readonly isSize: boolean;
  readonly description: string;
  /** Completes "must be ...". */
  readonly rule: string;
  /** Undefined for keys that may stay unset, and for mandatory keys. */
  readonly defaultValue: unknown;
  /** Unit of a number that is not a size in bytes. */
  readonly unit: unknown;
}

/** Every key of the configuration, in the order of the schema. */
export const configKeys: readonly ConfigKey[] = keysOf(configSchema, []);

/** The default of a key as a person would write it; undefined when there is none. */
export function defaultText(key: ConfigKey): string | undefined {
  const value = key.defaultValue;
  if (value === undefined || typeof value === 'string') return value;
  return key.isSize && typeof value === 'number' ? formatSizeBytes(value) : JSON.stringify(value);
}

/** The keys of one entry of a list of entries (`registries`), named within the entry. */
export function entryKeys(name: string): readonly ConfigKey[] {
  const schema = schemaAt(name.split('.'));
  const inner = schema === undefined ? undefined : unwrap(schema);
  return inner instanceof z.ZodArray && inner.element instanceof z.ZodObject
    ? keysOf(inner.element, [])
    : [];
}

/**
 * The rule that a value at this path breaks: the rule of the deepest schema on the path that has
 * one.
 */
export function ruleAt(path: readonly PropertyKey[]): string {
  for (let length = path.length; length > 0; length--) {
    const schema = schemaAt(path.slice(0, length));
    if (schema === undefined) continue;
    const rule = schema.meta()?.['rule'];
    if (typeof rule === 'string') return rule;
    if (schema instanceof z.ZodObject) return sectionRule(Object.keys(schema.shape));
  }
  return sectionRule(Object.keys(configSchema.shape));
}

/** Whether the path names a section, whose value is a mapping of further keys. */
export function isSection(path: readonly string[]): boolean {
  return path.length === 0 || schemaAt(path) instanceof z.ZodObject;
}

/** Every section of the configuration that holds keys: `store`, `p2p`, ... */
export const sectionNames: readonly string[] = [
  ...new Set(
    configKeys.flatMap(({ path }) => path.slice(1).map((_, i) => path.slice(0, i + 1).join('.'))),
  ),
];

function sectionRule(keys: readonly string[]): string {
  return `a mapping of the keys ${keys.join(', ')}`;
}

function keysOf(schema: z.ZodObject, prefix: readonly string[]): ConfigKey[] {
  return Object.entries(schema.shape).flatMap(([name, child]) => {
    const path = [...prefix, name];
    return child instanceof z.ZodObject ? keysOf(child, path) : [keyOf(child as z.ZodType, path)];
  });
}

function keyOf(schema: z.ZodType, path: readonly string[]): ConfigKey {
  const words = schema.meta();
  const inner = unwrap(schema);
  const name = path.join('.');
  return {
    name,
    path,
    flag: `--${name}`,
    variable: `XYLEM_${path.map(upperSnake).join('_')}`,
    kind: inner instanceof z.ZodBoolean ? 'boolean' : inner instanceof z.ZodArray ? 'list' : 'text',
    isSize: inner.meta()?.['unit'] === 'bytes',
    description: words?.description ?? '',
    rule: String(words?.['rule'] ?? ''),
    defaultValue: schema instanceof z.ZodDefault ? schema.def.defaultValue : undefined,
    unit: words?.['unit'],
  };
}

function upperSnake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
}

function unwrap(schema: z.ZodType): z.ZodType {
  if (schema instanceof z.ZodDefault || schema instanceof z.ZodOptional) {
    return unwrap(schema.def.innerType as z.ZodType);
  }
  return schema;
}

function schemaAt(path: readonly PropertyKey[]): z.ZodType | undefined {
  let schema: z.ZodType | undefined = configSchema;
  for (const part of path) {
    const inner: z.ZodType | undefined = schema === undefined ? undefined : unwrap(schema);
    if (inner instanceof z.ZodArray) schema = inner.element as z.ZodType;
    else if (inner instanceof z.ZodObject) {
      schema = Object.hasOwn(inner.shape, part)
        ? (inner.shape[String(part)] as z.ZodType)
        : undefined;
    } else return undefined;
  }
  return schema;
}
