import type { PreheatCalls } from '../../preheat/messages.ts';
import type { BlobOrigin } from '../../image/block.ts';
import type { TreeCalls } from '../../transfer/contracts/calls.ts';
import { KIB, MIB } from '../../util/bytes.ts';
import { message, nothing, type Codec, type MessageCodec } from '../wire/codec.ts';
import { MANIFEST_SIZE_BYTES_MAX } from '../../image/manifest.ts';
import { TREE_MESSAGE_BYTES_MAX } from '../limits.ts';
import * as preheat from './preheat-codec.ts';
import { presenceReply, presenceRequest } from './presence-codec.ts';
import * as tree from './tree-codec.ts';

/** All calls between agents, by name. */
export interface Calls extends TreeCalls, PreheatCalls {}

/** How a call crosses the wire. */
interface Call<Q, R> {
  /** Of the message that asks. */
  readonly type: number;
  readonly request: MessageCodec<Q>;
  readonly reply: MessageCodec<R>;
  /** Longest body of the request: what a peer may send before anything of it is looked at. */
  readonly requestBytesMax: number;
  /** The registry that the answer may wait for; absent of a call that is answered from memory. */
  readonly registryOf?: (request: Q) => string;
  /** Places in trees that the answer costs work for; absent of a call that costs little. */
  readonly placesOf?: (request: Q) => number;
}

/** The places of an image of 8 layers, at one of four roots, are 6 KiB. */
const FIRST_BYTES = 8 * KIB;

/** An origin or a reference, and a digest. */
const SMALL = 64 * KIB;

/** Digests, or places held: 4,096 of up to 41 bytes, and 64 lost peers. */
const LISTS = 256 * KIB;

/** A message of the wire and its bounds; the codec of a request knows its own as well. */
function call<Q, R>(
  type: number,
  of: {
    readonly request: Codec<Q>;
    readonly reply: Codec<R>;
    readonly requestBytesMax?: number;
    readonly registryOf?: (request: Q) => string;
    readonly placesOf?: (request: Q) => number;
  },
): Call<Q, R> {
  const { request, reply, requestBytesMax = SMALL, registryOf, placesOf } = of;
  return {
    type,
    request: message(request, { bytesMax: requestBytesMax, firstBytes: FIRST_BYTES }),
    reply: message(reply, { bytesMax: TREE_MESSAGE_BYTES_MAX, firstBytes: FIRST_BYTES }),
    requestBytesMax,
    ...(registryOf !== undefined && { registryOf }),
    ...(placesOf !== undefined && { placesOf }),
  };
}

function registryOfReference({ reference }: { readonly reference: string }): string {
  return reference.slice(0, Math.max(0, reference.indexOf('/')));
}

function registryOfOrigin({ origin }: { readonly origin: BlobOrigin }): string {
  return origin.registry;
}

/**
 * Every call; its name is also its label in metrics. Types are never used again:
 * docs/WIRE_PROTOCOL.md lists them.
 */
export const CALLS: { readonly [K in keyof Calls]: Call<Calls[K][0], Calls[K][1]> } = {
  join: call(1, {
    request: tree.joinRequest,
    reply: tree.joinReply,
    requestBytesMax: MIB,
    placesOf: ({ blobs }) => blobs.reduce((sum, { stripes }) => sum + stripes.length, 0),
  }),
  leave: call(2, {
    request: tree.leaveRequest,
    reply: nothing,
    requestBytesMax: LISTS,
    placesOf: ({ digests }) => digests.length,
  }),
  report: call(3, {
    request: tree.reportRequest,
    reply: tree.reportReply,
    requestBytesMax: LISTS,
    // Most places of a report are as they were.
    placesOf: ({ held }) => held.length / 4,
  }),
  resolve: call(4, {
    request: tree.resolveRequest,
    reply: tree.resolveReply,
    registryOf: registryOfReference,
  }),
  'open-blob': call(10, {
    request: tree.openRequest,
    reply: tree.openReply,
    registryOf: registryOfOrigin,
  }),
  'wrong-blob': call(11, {
    request: tree.wrongBlobReport,
    reply: tree.wrongBlobReply,
    requestBytesMax: LISTS,
  }),
  presence: call(12, {
    request: presenceRequest,
    reply: presenceReply,
    requestBytesMax: LISTS,
    placesOf: () => 1,
  }),
  preheat: call(7, { request: preheat.preheatRequest, reply: preheat.preheatReply }),
  'host-preheat': call(8, {
    request: preheat.hostPreheatRequest,
    reply: preheat.hostPreheatReply,
    // The order of a preheat carries a manifest.
    requestBytesMax: MANIFEST_SIZE_BYTES_MAX + SMALL,
  }),
  manifest: call(9, {
    request: tree.manifestRequest,
    reply: tree.manifestReply,
    registryOf: registryOfOrigin,
  }),
};

const NAMES = new Map(
  Object.entries(CALLS).map(([name, { type }]) => [type, name as keyof Calls] as const),
);

/** The call of a message that asks; undefined when no call has this type. */
export function callOf(type: number): keyof Calls | undefined {
  return NAMES.get(type);
}

/** Longest body of a message from a caller; undefined when no call has this type. */
export function requestBytesMax(type: number): number | undefined {
  const name = callOf(type);
  return name === undefined ? undefined : CALLS[name].requestBytesMax;
}
