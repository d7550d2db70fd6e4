import { fileURLToPath } from 'node:url';
import { loadPackageDefinition, type ServiceClientConstructor } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import type { SnapshotKind, SnapshotRecord } from '../catalog/snapshot.ts';
import { defined } from '../../util/assert.ts';

/** Text by text, as a message has it. */
type Texts = Readonly<Record<string, string>>;

/** Messages with a key; those without one have it empty. */
export interface KeyRequest {
  readonly key: string;
}

/** See snapshots.proto. */
export interface PrepareRequest extends KeyRequest {
  readonly parent: string;
  readonly labels: Texts;
}

/** See snapshots.proto. */
export interface CommitRequest extends KeyRequest {
  readonly name: string;
  readonly labels: Texts;
}

/** See snapshots.proto. Messages inside of others may be missing. */
export interface UpdateRequest {
  readonly info: { readonly name: string; readonly labels: Texts } | null;
  readonly update_mask: { readonly paths: readonly string[] } | null;
}

/** See snapshots.proto. */
export interface ListRequest {
  readonly filters: readonly string[];
}

/** A snapshot, as a message has it. */
export interface InfoMessage {
  readonly name: string;
  readonly parent: string;
  readonly kind: string;
  readonly created_at: TimeMessage;
  readonly updated_at: TimeMessage;
  readonly labels: Texts;
}

interface TimeMessage {
  readonly seconds: number;
  readonly nanos: number;
}

/** The service of snapshots.proto: its methods by name, with the codecs of their messages. */
export function snapshotsService(): ServiceClientConstructor['service'] {
  const file = fileURLToPath(new URL('./snapshots.proto', import.meta.url));
  const options = { keepCase: true, longs: Number, enums: String, defaults: true, objects: true };
  let found: unknown = loadPackageDefinition(loadSync(file, options));
  for (const name of ['containerd', 'services', 'snapshots', 'v1', 'Snapshots']) {
    found = (found as Readonly<Record<string, unknown>>)[name];
  }
  return defined(found as ServiceClientConstructor | undefined, 'the file has it').service;
}

const KINDS: Readonly<Record<SnapshotKind, string>> = {
  view: 'VIEW',
  active: 'ACTIVE',
  committed: 'COMMITTED',
};

/** The message of a snapshot. */
export function infoOf(record: SnapshotRecord): InfoMessage {
  const { name, parent, kind, labels, createdMs, updatedMs } = record;
  const times = { created_at: timeOf(createdMs), updated_at: timeOf(updatedMs) };
  return { name, parent, kind: KINDS[kind], labels, ...times };
}

function timeOf(ms: number): TimeMessage {
  const seconds = Math.floor(ms / 1000);
  return { seconds, nanos: Math.floor((ms - seconds * 1000) * 1_000_000) };
}
