import { readFileSync, statSync } from 'node:fs';
import type { z } from 'zod';
import { parseDocument, stringify } from 'yaml';
import { CodedError, errorText } from '../../util/errors.ts';
import {
  configKeys,
  entryKeys,
  isSection,
  ruleAt,
  sectionNames,
  type ConfigKey,
} from './config-keys.ts';
import { configSchema, type Config } from './config-schema.ts';
import { nearest } from '../../util/nearest.ts';

/** A larger file is no configuration. */
const FILE_SIZE_BYTES_MAX = 1024 * 1024;

/** Characters of a wrong value that an error line repeats. */
const SHOWN_LENGTH_MAX = 80;

/** Variables that start with `XYLEM_` and are not keys. */
const OTHER_VARIABLES: ReadonlySet<string> = new Set(['XYLEM_DEBUG']);

/**
 * Kubernetes gives every container such variables for each service of its namespace; one service
 * may be called `xylem`.
 */
const SERVICE_VARIABLE = /_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_[0-9]+_.*)?)$/;

/** The configuration is invalid. The message is one line. */
export class ConfigError extends CodedError<
  | { readonly code: 'file'; readonly file: string }
  | { readonly code: 'syntax'; readonly file: string }
  | { readonly code: 'unknown-key'; readonly key: string }
  | { readonly code: 'invalid-value'; readonly key: string }
> {}

/** Sources of the keys; later ones win: defaults, file, variables, flags. */
export interface ConfigSources {
  /** Path of the YAML file, if any. */
  readonly file?: string;
  readonly variables?: Readonly<Record<string, string | undefined>>;
  /** By flag name without the dashes (`store.dir`); `true` for a flag without a value. */
  readonly flags?: Readonly<Record<string, string | true>>;
}

interface Given {
  readonly value: unknown;
  /** `in FILE`, `in the variable NAME`, `in the flag NAME` */
  readonly where: string;
}

/** Reads, merges and checks a configuration. Throws ConfigError, about the first wrong key. */
export function loadConfig(sources: ConfigSources): Config {
  const given = new Map<string, Given>();
  if (sources.file !== undefined) collectFile(sources.file, given);
  collectVariables(sources.variables ?? {}, given);
  collectFlags(sources.flags ?? {}, given);
  const result = configSchema.safeParse(treeOf(given));
  if (!result.success) throw invalidValue(result.error, given);
  if (result.data.role !== 'root' && result.data.roots.length === 0) {
    throw wrong('roots', { value: [], where: given.get('roots')?.where ?? 'by default' });
  }
  return result.data;
}

/**
 * The configuration as YAML that `loadConfig()` reads back. It holds no secrets: secrets stay in
 * files of their own.
 */
export function formatConfig(config: Config): string {
  return stringify(config);
}

function collectFile(file: string, given: Map<string, Given>): void {
  const document = parseDocument(readConfigFile(file), { prettyErrors: true });
  const error = document.errors[0];
  if (error !== undefined) {
    throw new ConfigError(
      `${file} is not valid YAML: ${firstLine(error.message)}`,
      { code: 'syntax', file },
      { cause: error },
    );
  }
  let root: unknown;
  try {
    root = document.toJS();
  } catch (cause) {
    throw new ConfigError(
      `${file} is not valid YAML: ${firstLine(errorText(cause))}`,
      { code: 'syntax', file },
      { cause },
    );
  }
  // An empty file, or a file of comments alone, sets nothing.
  if (root !== null && root !== undefined) collectSection(root, [], { file, given });
}

function readConfigFile(file: string): string {
  try {
    const { size } = statSync(file);
    if (size <= FILE_SIZE_BYTES_MAX) return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new ConfigError(
      `cannot read the configuration file ${file}: ${firstLine(errorText(cause))}`,
      { code: 'file', file },
      { cause },
    );
  }
  throw new ConfigError(
    `the configuration file ${file} is larger than ${FILE_SIZE_BYTES_MAX} bytes: ` +
      'give a YAML file with the keys of docs/CONFIGURATION.md',
    { code: 'file', file },
  );
}

function collectSection(
  value: unknown,
  path: readonly string[],
  to: { readonly file: string; readonly given: Map<string, Given> },
): void {
  const where = `in ${to.file}`;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw wrong(path.join('.') || 'the whole file', { value, where }, ruleAt(path));
  }
  for (const [name, inner] of Object.entries(value)) {
    const innerPath = [...path, name];
    const key = innerPath.join('.');
    if (configKeys.some((known) => known.name === key)) to.given.set(key, { value: inner, where });
    else if (isSection(innerPath)) collectSection(inner, innerPath, to);
    else
      throw unknownKey({ key, within: '' }, where, [
        ...sectionNames,
        ...configKeys.map((known) => known.name),
      ]);
  }
}

function collectVariables(
  variables: Readonly<Record<string, string | undefined>>,
  given: Map<string, Given>,
): void {
  for (const [variable, text] of Object.entries(variables)) {
    if (!variable.startsWith('XYLEM_') || text === undefined) continue;
    const key = configKeys.find((known) => known.variable === variable);
    if (key !== undefined) {
      given.set(key.name, { value: valueOf(key, text), where: `in the variable ${variable}` });
    } else if (!OTHER_VARIABLES.has(variable) && !SERVICE_VARIABLE.test(variable)) {
      throw unknownKey(
        { key: variable, within: '' },
        'in the environment',
        configKeys.map((known) => known.variable),
      );
    }
  }
}

function collectFlags(
  flags: Readonly<Record<string, string | true>>,
  given: Map<string, Given>,
): void {
  for (const [name, text] of Object.entries(flags)) {
    const key = configKeys.find((known) => known.name === name);
    if (key === undefined)
      throw unknownKey(
        { key: `--${name}`, within: '' },
        'on the command line',
        configKeys.map((known) => known.flag),
      );
    const value = text === true ? true : valueOf(key, text);
    given.set(key.name, { value, where: `in the flag ${key.flag}` });
  }
}

/**
 * The value of a text from a flag or a variable. A text that does not parse stays as it is, for the
 * schema to reject.
 */
function valueOf(key: ConfigKey, text: string): unknown {
  if (key.kind === 'boolean') return text === 'true' ? true : text === 'false' ? false : text;
  if (key.kind !== 'list') return text;
  const trimmed = text.trim();
  if (trimmed === '') return [];
  if (!trimmed.startsWith('[')) return trimmed.split(',').map((entry) => entry.trim());
  try {
    const document = parseDocument(trimmed);
    return document.errors.length === 0 ? document.toJS() : text;
  } catch {
    return text;
  }
}

function treeOf(given: ReadonlyMap<string, Given>): Record<string, unknown> {
  const root: Record<string, unknown> = {};
  for (const key of configKeys) {
    let section = root;
    for (const part of key.path.slice(0, -1))
      section = (section[part] ??= {}) as Record<string, unknown>;
    const found = given.get(key.name);
    if (found !== undefined) section[key.path.at(-1) ?? ''] = found.value;
  }
  return root;
}

function invalidValue(error: z.ZodError, given: ReadonlyMap<string, Given>): ConfigError {
  // A slip in a key says more than that the right one is missing.
  const issue = error.issues.find(({ code }) => code === 'unrecognized_keys') ?? error.issues[0];
  const path = issue?.path ?? [];
  const key = configKeys.find((known) => known.path.every((part, i) => part === path[i]));
  const found = given.get(key?.name ?? '') ?? { value: undefined, where: 'by default' };
  const rest = path.slice(key?.path.length ?? 0);
  if (issue?.code === 'unrecognized_keys') {
    const known = entryKeys(key?.name ?? '').map((entry) => entry.name);
    return unknownKey({ key: issue.keys[0] ?? '', within: `${nameOf(path)}.` }, found.where, known);
  }
  let value = found.value;
  for (const part of rest) value = (value as Record<PropertyKey, unknown> | undefined)?.[part];
  return wrong(nameOf(path), { value, where: found.where }, ruleAt(path));
}

function nameOf(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (name, part) =>
      typeof part === 'number'
        ? `${name}[${part}]`
        : name === ''
          ? String(part)
          : `${name}.${String(part)}`,
    '',
  );
}

function wrong(key: string, found: Given, rule: string = ruleAt(key.split('.'))): ConfigError {
  return new ConfigError(
    `configuration: ${key} is ${shown(found.value)} (${found.where}), but must be ${rule}`,
    {
      code: 'invalid-value',
      key,
    },
  );
}

function unknownKey(
  name: { readonly key: string; readonly within: string },
  where: string,
  known: readonly string[],
): ConfigError {
  const guess =
    nearest(name.key, known) ?? known.find((candidate) => candidate.endsWith(`.${name.key}`));
  const hint =
    guess === undefined
      ? 'docs/CONFIGURATION.md lists the keys'
      : `did you mean ${name.within}${guess}?`;
  const key = name.within + name.key;
  return new ConfigError(
    `configuration: ${shownName(key)} (${where}) is not a known key: ${hint}`,
    {
      code: 'unknown-key',
      key,
    },
  );
}

function shown(value: unknown): string {
  if (value === undefined) return 'missing';
  try {
    return clipped(withoutPasswords(JSON.stringify(value)));
  } catch {
    // An alias of YAML can make a list that holds itself.
    return 'a list or mapping that cannot be shown';
  }
}

/** URLs may hold a user and a password, which belong in no log. */
function withoutPasswords(text: string): string {
  return text.replaceAll(/\/\/[^/@\s"]*@/g, '//***@');
}

/** A key as the user wrote it; quoted when its characters would break the line. */
function shownName(key: string): string {
  return clipped(/[\p{C}\p{Z}]/u.test(key) ? JSON.stringify(key) : key);
}

function clipped(text: string): string {
  return text.length <= SHOWN_LENGTH_MAX ? text : `${text.slice(0, SHOWN_LENGTH_MAX)}...`;
}

function firstLine(text: string): string {
  return (text.split('\n')[0] ?? '').replace(/:$/, '');
}
