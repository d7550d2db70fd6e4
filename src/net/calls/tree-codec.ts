import { MANIFEST_SIZE_BYTES_MAX } from '../../image/manifest.ts';
import { BLOCKS_MAX } from '../../image/block.ts';
import {
  type BlockRun,
  type JoinReply,
  type JoinRequest,
  type LeaveRequest,
  type ManifestReply,
  type ManifestRequest,
  type Place,
  type ReportReply,
  type ReportRequest,
  type ResolveReply,
  type ResolveRequest,
  type StatReply,
  type StatRequest,
  type TouchOrder,
  type WantedBlob,
  MANIFEST_REFUSALS,
} from '../../tree/messages.ts';
import {
  BLOBS_PER_JOIN_MAX,
  LOST_PER_REPORT_MAX,
  PATH_MAX,
  PLACES_PER_REPORT_MAX,
} from '../../tree/limits.ts';
import { KIB } from '../../util/bytes.ts';
import { ByteReader } from '../wire/byte-reader.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import { badValue, overLimit } from '../wire/errors.ts';
import * as fields from '../wire/fields.ts';
import { HostTableReader, HostTableWriter, readHost, writeHost } from '../wire/hosts.ts';
import { TREE_MESSAGE_BYTES_MAX } from '../limits.ts';

/** Stripes that any blob has (src/image/block.ts), with room for a later rule. */
const STRIPES_MAX = 64;

/** Runs of held blocks told of one blob: beyond it the rest is left out, since they are a hint to a new owner. */
export const HELD_RUNS_MAX = 1024;

/** Places in one reply: what one request can ask for. */
const PLACES_MAX = PLACES_PER_REPORT_MAX;
const ALTERNATES_MAX = 64;

/** Blobs left or unknown at a time: the places of a report may all be of different blobs. */
const BLOBS_MAX = PLACES_PER_REPORT_MAX;

/** Indices of one order in a reply: 2^17 blocks are 32 GiB touched. */
const ORDER_MAX = 2 ** 17;

/** Of an image reference. */
export const REFERENCE_BYTES_MAX = 1024;
const CHALLENGE_BYTES_MAX = 1024;

/** The places of an image of 8 layers, at one of four roots, are 6 KiB. */
const FIRST_BYTES = 8 * KIB;

/** Turns one kind of message into bytes and back. `decode` throws WireError unless the bytes are exactly what `encode` makes. */
export interface MessageCodec<T> {
  encode(message: T): Uint8Array;
  decode(bytes: Uint8Array): T;
}

/** The codec of a message that `write` and `read` know the fields of. */
export function messageCodec<T>(
  write: (writer: ByteWriter, message: T) => void,
  read: (reader: ByteReader) => T,
): MessageCodec<T> {
  return {
    encode: (message) => {
      const writer = new ByteWriter(TREE_MESSAGE_BYTES_MAX, FIRST_BYTES);
      write(writer, message);
      return writer.finish();
    },
    decode: (bytes) => {
      if (bytes.length > TREE_MESSAGE_BYTES_MAX) {
        throw overLimit('message', bytes.length, TREE_MESSAGE_BYTES_MAX);
      }
      const reader = new ByteReader(bytes);
      const message = read(reader);
      reader.end();
      return message;
    },
  };
}

function writeRuns(writer: ByteWriter, runs: readonly BlockRun[]): void {
  fields.writeList(
    writer,
    { field: 'held', countMax: HELD_RUNS_MAX, items: runs.slice(0, HELD_RUNS_MAX) },
    ([first, count]) => {
      writer.u32(first);
      writer.u32(count);
    },
  );
}

/** Runs ascend and are not empty, so that no list of them holds a block twice. */
function readRuns(reader: ByteReader): readonly BlockRun[] {
  let free = 0;
  return fields.readList(reader, 'held', HELD_RUNS_MAX, () => {
    const first = reader.u32();
    const count = reader.u32();
    if (first < free || count === 0 || first + count > BLOCKS_MAX) {
      throw badValue('held', `a run of blocks from ${free} on`, `${first}+${count}`);
    }
    free = first + count;
    return [first, count] as const;
  });
}

function writeWanted(writer: ByteWriter, wanted: WantedBlob): void {
  fields.writeDigest(writer, wanted.blob.digest);
  fields.writeSize(writer, wanted.blob.sizeBytes);
  fields.writeOrigin(writer, wanted.origin);
  fields.writeList(
    writer,
    { field: 'stripes', countMax: STRIPES_MAX, items: wanted.stripes },
    (stripe) => writer.u8(stripe),
  );
  writeRuns(writer, wanted.held);
}

function readWanted(reader: ByteReader): WantedBlob {
  return {
    blob: { digest: fields.readDigest(reader), sizeBytes: fields.readSize(reader) },
    origin: fields.readOrigin(reader),
    stripes: fields.readList(reader, 'stripes', STRIPES_MAX, () => readStripe(reader)),
    held: readRuns(reader),
  };
}

function readStripe(reader: ByteReader): number {
  const stripe = reader.u8();
  if (stripe >= STRIPES_MAX) throw badValue('stripe', `below ${STRIPES_MAX}`, stripe);
  return stripe;
}

/** Places behind the table of the hosts that they name. */
function writePlaces(writer: ByteWriter, places: readonly Place[]): void {
  const table = new HostTableWriter();
  const indexed = places.map((place) => ({
    place,
    path: place.path.map((host) => table.add(host)),
    alternates: place.alternates.map((host) => table.add(host)),
  }));
  table.write(writer);
  const writeIndex = (index: number): void => writer.u16(index);
  fields.writeList(writer, { field: 'places', countMax: PLACES_MAX, items: indexed }, (item) => {
    const { place, path, alternates } = item;
    fields.writeDigest(writer, place.digest);
    writer.u8(place.stripe);
    writer.u64(place.epoch);
    fields.writeList(writer, { field: 'path', countMax: PATH_MAX, items: path }, writeIndex);
    fields.writeList(
      writer,
      { field: 'alternates', countMax: ALTERNATES_MAX, items: alternates },
      writeIndex,
    );
  });
}

function readPlaces(reader: ByteReader): readonly Place[] {
  const table = HostTableReader.read(reader);
  const places = fields.readList(reader, 'places', PLACES_MAX, () => ({
    digest: fields.readDigest(reader),
    stripe: readStripe(reader),
    epoch: reader.u64('epoch'),
    path: fields.readList(reader, 'path', PATH_MAX, () => table.host(reader.u16())),
    alternates: fields.readList(reader, 'alternates', ALTERNATES_MAX, () =>
      table.host(reader.u16()),
    ),
  }));
  table.end();
  return places;
}

function writeOrder(writer: ByteWriter, order: TouchOrder): void {
  fields.writeDigest(writer, order.digest);
  fields.writeIndices(writer, order.indices.slice(0, ORDER_MAX), ORDER_MAX);
}

function readOrder(reader: ByteReader): TouchOrder {
  return { digest: fields.readDigest(reader), indices: fields.readIndices(reader, ORDER_MAX) };
}

function writeManifest(writer: ByteWriter, bytes: Uint8Array): void {
  if (bytes.length > MANIFEST_SIZE_BYTES_MAX) {
    throw overLimit('manifest', bytes.length, MANIFEST_SIZE_BYTES_MAX);
  }
  writer.u32(bytes.length);
  writer.raw(bytes);
}

/** In memory of its own. */
function readManifest(reader: ByteReader): Uint8Array {
  const length = reader.u32();
  if (length > MANIFEST_SIZE_BYTES_MAX) {
    throw overLimit('manifest', length, MANIFEST_SIZE_BYTES_MAX);
  }
  return reader.raw(length).slice();
}

export const joinRequest = messageCodec<JoinRequest>(
  (writer, { host, blobs }) => {
    writeHost(writer, host);
    fields.writeName(writer, 'zone', host.zone);
    writer.u16(host.capacity);
    fields.writeList(
      writer,
      { field: 'blobs', countMax: BLOBS_PER_JOIN_MAX, items: blobs },
      (wanted) => writeWanted(writer, wanted),
    );
  },
  (reader) => ({
    host: {
      ...readHost(reader),
      zone: fields.readName(reader, 'zone'),
      capacity: reader.u16(),
    },
    blobs: fields.readList(reader, 'blobs', BLOBS_PER_JOIN_MAX, () => readWanted(reader)),
  }),
);

export const joinReply = messageCodec<JoinReply>(
  (writer, { places, orders }) => {
    writePlaces(writer, places);
    fields.writeList(
      writer,
      { field: 'orders', countMax: BLOBS_PER_JOIN_MAX, items: orders },
      (order) => writeOrder(writer, order),
    );
  },
  (reader) => ({
    places: readPlaces(reader),
    orders: fields.readList(reader, 'orders', BLOBS_PER_JOIN_MAX, () => readOrder(reader)),
  }),
);

export const leaveRequest = messageCodec<LeaveRequest>(
  (writer, { digests }) =>
    fields.writeList(writer, { field: 'digests', countMax: BLOBS_MAX, items: digests }, (digest) =>
      fields.writeDigest(writer, digest),
    ),
  (reader) => ({
    digests: fields.readList(reader, 'digests', BLOBS_MAX, () => fields.readDigest(reader)),
  }),
);

export const leaveReply = messageCodec<void>(
  () => {},
  () => {},
);

export const reportRequest = messageCodec<ReportRequest>(
  (writer, { lost, held }) => {
    fields.writeList(
      writer,
      { field: 'lost', countMax: LOST_PER_REPORT_MAX, items: lost },
      (peer) => fields.writePeer(writer, peer),
    );
    fields.writeList(
      writer,
      { field: 'held', countMax: PLACES_PER_REPORT_MAX, items: held },
      (place) => {
        fields.writeDigest(writer, place.digest);
        writer.u8(place.stripe);
        writer.u64(place.epoch);
      },
    );
  },
  (reader) => ({
    lost: fields.readList(reader, 'lost', LOST_PER_REPORT_MAX, () => fields.readPeer(reader)),
    held: fields.readList(reader, 'held', PLACES_PER_REPORT_MAX, () => ({
      digest: fields.readDigest(reader),
      stripe: readStripe(reader),
      epoch: reader.u64('epoch'),
    })),
  }),
);

export const reportReply = messageCodec<ReportReply>(
  (writer, { places, unknown }) => {
    writePlaces(writer, places);
    fields.writeList(writer, { field: 'unknown', countMax: BLOBS_MAX, items: unknown }, (digest) =>
      fields.writeDigest(writer, digest),
    );
  },
  (reader) => ({
    places: readPlaces(reader),
    unknown: fields.readList(reader, 'unknown', BLOBS_MAX, () => fields.readDigest(reader)),
  }),
);

export const resolveRequest = messageCodec<ResolveRequest>(
  (writer, { reference }) => fields.writeText(writer, 'reference', reference, REFERENCE_BYTES_MAX),
  (reader) => ({ reference: fields.readText(reader, 'reference', REFERENCE_BYTES_MAX) }),
);

export const resolveReply = messageCodec<ResolveReply>(
  (writer, { manifestDigest, manifest, origin }) => {
    fields.writeDigest(writer, manifestDigest);
    fields.writeOrigin(writer, origin);
    writeManifest(writer, manifest);
  },
  (reader) => {
    const manifestDigest = fields.readDigest(reader);
    const origin = fields.readOrigin(reader);
    return { manifestDigest, manifest: readManifest(reader), origin };
  },
);

export const statRequest = messageCodec<StatRequest>(
  (writer, { digest, origin }) => {
    fields.writeDigest(writer, digest);
    fields.writeOrigin(writer, origin);
  },
  (reader) => ({ digest: fields.readDigest(reader), origin: fields.readOrigin(reader) }),
);

export const statReply = messageCodec<StatReply>(
  (writer, { sizeBytes, isPublic }) => {
    fields.writeSize(writer, sizeBytes);
    fields.writeFlag(writer, isPublic);
  },
  (reader) => ({ sizeBytes: fields.readSize(reader), isPublic: fields.readFlag(reader, 'public') }),
);

export const manifestRequest = messageCodec<ManifestRequest>(
  (writer, { origin, reference }) => {
    fields.writeOrigin(writer, origin);
    fields.writeName(writer, 'reference', reference);
  },
  (reader) => ({
    origin: fields.readOrigin(reader),
    reference: fields.readName(reader, 'reference'),
  }),
);

export const manifestReply = messageCodec<ManifestReply>(
  (writer, reply) => {
    if (reply.outcome !== 'found') {
      writer.u8(1 + MANIFEST_REFUSALS.indexOf(reply.outcome));
      fields.writeText(writer, 'challenge', reply.challenge, CHALLENGE_BYTES_MAX);
      writer.u64(reply.retryAfterMs);
      return;
    }
    writer.u8(0);
    fields.writeDigest(writer, reply.digest);
    fields.writeName(writer, 'media type', reply.mediaType);
    writer.u64(reply.ageMs);
    writeManifest(writer, reply.bytes);
  },
  (reader) => {
    const outcome = reader.u8();
    if (outcome > 0) {
      const refusal = MANIFEST_REFUSALS[outcome - 1];
      if (refusal === undefined) {
        throw badValue('outcome', `at most ${MANIFEST_REFUSALS.length}`, outcome);
      }
      const challenge = fields.readText(reader, 'challenge', CHALLENGE_BYTES_MAX);
      return { outcome: refusal, challenge, retryAfterMs: reader.u64('retry after') };
    }
    return {
      outcome: 'found',
      digest: fields.readDigest(reader),
      mediaType: fields.readName(reader, 'media type'),
      ageMs: reader.u64('age'),
      bytes: readManifest(reader),
    };
  },
);
