import type { HostCard } from '../../tree/messages.ts';
import {
  ASKED_MAX,
  REACHES,
  type HostName,
  type PresenceReply,
  type PresenceRequest,
} from '../../tree/presence.ts';
import * as of from '../wire/codec.ts';
import { badValue } from '../wire/errors.ts';
import { name, peer } from '../wire/fields.ts';
import { hostFields } from '../wire/hosts.ts';

/** Roots of one cluster, as many as `roots` may name by addresses of names. */
const ROOTS_MAX = 4096;

/** What was tried, with eight addresses and their errors. */
const TRIED_BYTES_MAX = 1024;

const run = of.checked(of.text(32), (value, field) => {
  if (!/^[0-9a-f]{32}$/.test(value)) throw badValue(field, '32 hex digits', value);
});

/** That a host is there, and who it is. */
export const presenceRequest = of.struct<PresenceRequest>({
  host: of.struct<HostCard>({
    ...hostFields,
    zone: name,
    capacity: of.u16,
    announced: of.absentAs(false, of.flag),
  }),
  name,
  run,
  roots: of.list(peer, ROOTS_MAX),
  asked: of.list(peer, ASKED_MAX),
});

/** What a root or relay says of it. */
export const presenceReply = of.struct<PresenceReply>({
  reach: of.word(REACHES),
  tried: of.text(TRIED_BYTES_MAX),
  twin: of.text(TRIED_BYTES_MAX),
  strangers: of.list(peer, ROOTS_MAX),
  names: of.list(of.struct<HostName>({ peer, name, zone: name, address: name }), ASKED_MAX + 1),
});
