import type { PreheatCalls } from '../../preheat/messages.ts';
import type { TreeCalls } from '../../transfer/contracts/calls.ts';
import { KIB } from '../../util/bytes.ts';
import { message, nothing, type Codec, type MessageCodec } from '../wire/codec.ts';
import { TREE_MESSAGE_BYTES_MAX } from '../limits.ts';
import * as preheat from './preheat-codec.ts';
import * as tree from './tree-codec.ts';

/** All calls between agents, by name. */
export interface Calls extends TreeCalls, PreheatCalls {}

/** How a call crosses the wire. */
interface Call<Q, R> {
  /** Of the message that asks. */
  readonly type: number;
  readonly request: MessageCodec<Q>;
  readonly reply: MessageCodec<R>;
}

/** The places of an image of 8 layers, at one of four roots, are 6 KiB. */
const FIRST_BYTES = 8 * KIB;

const limits = { bytesMax: TREE_MESSAGE_BYTES_MAX, firstBytes: FIRST_BYTES };

function call<Q, R>(type: number, request: Codec<Q>, reply: Codec<R>): Call<Q, R> {
  return { type, request: message(request, limits), reply: message(reply, limits) };
}

/** Every call; its name is also its label in metrics. Types are never used again: docs/WIRE_PROTOCOL.md lists them. */
export const CALLS: { readonly [K in keyof Calls]: Call<Calls[K][0], Calls[K][1]> } = {
  join: call(1, tree.joinRequest, tree.joinReply),
  leave: call(2, tree.leaveRequest, nothing),
  report: call(3, tree.reportRequest, tree.reportReply),
  resolve: call(4, tree.resolveRequest, tree.resolveReply),
  'open-blob': call(10, tree.openRequest, tree.openReply),
  preheat: call(7, preheat.preheatRequest, preheat.preheatReply),
  'host-preheat': call(8, preheat.hostPreheatRequest, preheat.hostPreheatReply),
  manifest: call(9, tree.manifestRequest, tree.manifestReply),
};

const NAMES = new Map(
  Object.entries(CALLS).map(([name, { type }]) => [type, name as keyof Calls] as const),
);

/** The call of a message that asks; undefined when no call has this type. */
export function callOf(type: number): keyof Calls | undefined {
  return NAMES.get(type);
}
