import { MANIFEST_SIZE_BYTES_MAX } from '../../image/manifest.ts';
import {
  PREHEAT_FAILURES,
  PREHEAT_PARTS,
  PREHEAT_STATES,
  type HostPreheatReply,
  type HostPreheatRequest,
  type HostProgress,
  type PreheatFailure,
  type PreheatHost,
  type PreheatJob,
  type PreheatOrder,
  type PreheatRequest,
  type PreheatSpec,
} from '../../preheat/messages.ts';
import { defined } from '../../util/assert.ts';
import type { ByteReader } from '../wire/byte-reader.ts';
import type { ByteWriter } from '../wire/byte-writer.ts';
import { badValue, overLimit } from '../wire/errors.ts';
import * as fields from '../wire/fields.ts';
import { CONNECTIONS_MAX } from '../limits.ts';
import { messageCodec, REFERENCE_BYTES_MAX } from './tree-codec.ts';

/** Digits of a preheat's number. */
const ID = /^[0-9]{1,16}$/;
const ID_BYTES_MAX = 16;

const REQUEST_ACTIONS = ['start', 'status', 'cancel'] as const;
const HOST_ACTIONS = ['ask', 'start', 'status', 'cancel'] as const;

/** In place of a failure: there is none. */
const NO_FAILURE = 255;

/** In place of a count: all hosts. */
const ALL_HOSTS = 0;

/** One of a few words, as its place among them (u8). */
function writeWord<T extends string>(writer: ByteWriter, words: readonly T[], word: T): void {
  writer.u8(words.indexOf(word));
}

function readWord<T extends string>(reader: ByteReader, field: string, words: readonly T[]): T {
  const at = reader.u8();
  if (at >= words.length) throw badValue(field, `below ${words.length}`, at);
  return defined(words[at], 'the place was checked');
}

function readFlag(reader: ByteReader, field: string): boolean {
  const value = reader.u8();
  if (value > 1) throw badValue(field, '0 or 1', value);
  return value === 1;
}

function readId(reader: ByteReader): string {
  const id = fields.readText(reader, 'id', ID_BYTES_MAX);
  if (!ID.test(id)) throw badValue('id', '1 to 16 digits', id);
  return id;
}

function writeId(writer: ByteWriter, id: string): void {
  fields.writeText(writer, 'id', id, ID_BYTES_MAX);
}

function writeReference(writer: ByteWriter, reference: string): void {
  fields.writeText(writer, 'reference', reference, REFERENCE_BYTES_MAX);
}

function writeSpec(writer: ByteWriter, spec: PreheatSpec): void {
  writeReference(writer, spec.reference);
  writeWord(writer, PREHEAT_PARTS, spec.part);
  writer.u8(spec.pin ? 1 : 0);
  // No zone has an empty name.
  fields.writeName(writer, 'zone', spec.zone ?? '');
  writer.u32(spec.count ?? ALL_HOSTS);
}

function readSpec(reader: ByteReader): PreheatSpec {
  const reference = fields.readText(reader, 'reference', REFERENCE_BYTES_MAX);
  const part = readWord(reader, 'part', PREHEAT_PARTS);
  const pin = readFlag(reader, 'pin');
  const zone = fields.readName(reader, 'zone');
  const count = reader.u32();
  return {
    reference,
    part,
    pin,
    ...(zone !== '' && { zone }),
    ...(count !== ALL_HOSTS && { count }),
  };
}

function writeFailure(writer: ByteWriter, failure: PreheatFailure | undefined): void {
  writer.u8(failure === undefined ? NO_FAILURE : PREHEAT_FAILURES.indexOf(failure));
}

function readFailure(reader: ByteReader): { readonly failure?: PreheatFailure } {
  const at = reader.u8();
  if (at === NO_FAILURE) return {};
  const failure = PREHEAT_FAILURES[at];
  if (failure === undefined) throw badValue('failure', `below ${PREHEAT_FAILURES.length}`, at);
  return { failure };
}

function writeProgress(writer: ByteWriter, progress: HostProgress): void {
  writeWord(writer, PREHEAT_STATES, progress.state);
  writer.u64(progress.doneBytes);
  writer.u64(progress.totalBytes);
  writeFailure(writer, progress.failure);
}

function readProgress(reader: ByteReader): HostProgress {
  return {
    state: readWord(reader, 'state', PREHEAT_STATES),
    doneBytes: reader.u64('done'),
    totalBytes: reader.u64('total'),
    ...readFailure(reader),
  };
}

function writeOrder(writer: ByteWriter, order: PreheatOrder): void {
  const { manifest } = order;
  if (manifest.length > MANIFEST_SIZE_BYTES_MAX) {
    throw overLimit('manifest', manifest.length, MANIFEST_SIZE_BYTES_MAX);
  }
  writeReference(writer, order.reference);
  fields.writeDigest(writer, order.digest);
  fields.writeOrigin(writer, order.origin);
  writeWord(writer, PREHEAT_PARTS, order.part);
  writer.u8(order.pin ? 1 : 0);
  writer.u32(manifest.length);
  writer.raw(manifest);
}

function readOrder(reader: ByteReader): PreheatOrder {
  const reference = fields.readText(reader, 'reference', REFERENCE_BYTES_MAX);
  const digest = fields.readDigest(reader);
  const origin = fields.readOrigin(reader);
  const part = readWord(reader, 'part', PREHEAT_PARTS);
  const pin = readFlag(reader, 'pin');
  const length = reader.u32();
  if (length > MANIFEST_SIZE_BYTES_MAX) {
    throw overLimit('manifest', length, MANIFEST_SIZE_BYTES_MAX);
  }
  return { reference, digest, origin, part, pin, manifest: reader.raw(length).slice() };
}

export const preheatRequest = messageCodec<PreheatRequest>(
  (writer, request) => {
    writeWord(writer, REQUEST_ACTIONS, request.action);
    writeId(writer, request.id);
    if (request.action === 'start') writeSpec(writer, request.spec);
  },
  (reader) => {
    const action = readWord(reader, 'action', REQUEST_ACTIONS);
    const id = readId(reader);
    return action === 'start' ? { action, id, spec: readSpec(reader) } : { action, id };
  },
);

export const preheatReply = messageCodec<PreheatJob>(
  (writer, job) => {
    writeId(writer, job.id);
    writeSpec(writer, job.spec);
    writeWord(writer, PREHEAT_STATES, job.state);
    writeFailure(writer, job.failure);
    writer.u8(job.digest === undefined ? 0 : 1);
    if (job.digest !== undefined) fields.writeDigest(writer, job.digest);
    writer.u64(job.startedMs);
    // Nothing finished in 1970.
    writer.u64(job.finishedMs ?? 0);
    fields.writeList(
      writer,
      { field: 'hosts', countMax: CONNECTIONS_MAX, items: job.hosts },
      (host) => {
        fields.writePeer(writer, host.peer);
        fields.writeName(writer, 'zone', host.zone);
        writeProgress(writer, host);
      },
    );
  },
  (reader) => {
    const id = readId(reader);
    const spec = readSpec(reader);
    const state = readWord(reader, 'state', PREHEAT_STATES);
    const failure = readFailure(reader);
    const digest = readFlag(reader, 'digest known') ? fields.readDigest(reader) : undefined;
    const startedMs = reader.u64('started');
    const finishedMs = reader.u64('finished');
    return {
      id,
      spec,
      state,
      ...failure,
      ...(digest !== undefined && { digest }),
      startedMs,
      ...(finishedMs !== 0 && { finishedMs }),
      hosts: fields.readList(reader, 'hosts', CONNECTIONS_MAX, () => readHost(reader)),
    };
  },
);

function readHost(reader: ByteReader): PreheatHost {
  const peer = fields.readPeer(reader);
  const zone = fields.readName(reader, 'zone');
  return { peer, zone, ...readProgress(reader) };
}

export const hostPreheatRequest = messageCodec<HostPreheatRequest>(
  (writer, request) => {
    writeWord(writer, HOST_ACTIONS, request.action);
    if (request.action === 'ask') return;
    writeId(writer, request.id);
    if (request.action === 'start') writeOrder(writer, request.order);
  },
  (reader) => {
    const action = readWord(reader, 'action', HOST_ACTIONS);
    if (action === 'ask') return { action };
    const id = readId(reader);
    return action === 'start' ? { action, id, order: readOrder(reader) } : { action, id };
  },
);

export const hostPreheatReply = messageCodec<HostPreheatReply>(
  (writer, { zone, progress }) => {
    fields.writeName(writer, 'zone', zone);
    writer.u8(progress === undefined ? 0 : 1);
    if (progress !== undefined) writeProgress(writer, progress);
  },
  (reader) => {
    const zone = fields.readName(reader, 'zone');
    if (!readFlag(reader, 'progress known')) return { zone };
    return { zone, progress: readProgress(reader) };
  },
);
