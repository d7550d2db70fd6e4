import * as preheat from '../../preheat/messages.ts';
import * as of from '../wire/codec.ts';
import { badValue } from '../wire/errors.ts';
import { digest, index, name, origin, peer } from '../wire/fields.ts';
import { CONNECTIONS_MAX } from '../limits.ts';
import { imageReference, manifest } from './tree-codec.ts';

/** What names a preheat: its id, or to look for it also its number. */
const ID = /^([0-9a-f]{32}|[0-9]{1,16})$/;
const ID_BYTES_MAX = 32;

/** In place of a failure: there is none. */
const NO_FAILURE = 255;

/** In place of a count: all hosts. */
const ALL_HOSTS = 0;

const id = of.checked(of.text(ID_BYTES_MAX), (value, field) => {
  if (!ID.test(value)) throw badValue(field, '32 hex digits, or 1 to 16 digits', value);
});

const part = of.word(preheat.PREHEAT_PARTS);
const state = of.word(preheat.PREHEAT_STATES);
const failure = of.optionalWord(preheat.PREHEAT_FAILURES, NO_FAILURE);

const spec = of.struct<preheat.PreheatSpec>({
  reference: imageReference,
  part,
  pin: of.flag,
  // No zone has an empty name.
  zone: of.absentAs('', name),
  count: of.absentAs(ALL_HOSTS, of.u32),
});

const progressFields = { state, doneBytes: of.u64, totalBytes: of.u64, failure };
const reason = of.absentAs('', of.text(preheat.REASON_LENGTH_MAX));
const digests = of.list(digest, preheat.MISSING_MAX);

const order = of.struct<preheat.PreheatOrder>({
  reference: imageReference,
  digest,
  origin,
  part,
  pin: of.flag,
  manifest,
});

/** What PREHEAT asks of a root. */
export const preheatRequest = of.variant<preheat.PreheatRequest, 'action'>('action', {
  start: { id, spec },
  status: { id },
  cancel: { id },
});

/** How the preheat stands. */
export const preheatReply = of.struct<preheat.PreheatJob>({
  id,
  spec,
  state,
  failure,
  reason,
  missing: of.list(
    of.struct<preheat.MissingBlob>({ digest, isForeign: of.flag }),
    preheat.MISSING_MAX,
  ),
  digest: of.optional(digest),
  startedMs: of.u64,
  // Nothing finished in 1970.
  finishedMs: of.absentAs(0, of.u64),
  hosts: of.list(
    of.struct<preheat.PreheatHost>({ peer, zone: name, ...progressFields }),
    CONNECTIONS_MAX,
  ),
});

/** What HOST_PREHEAT asks of a host. */
export const hostPreheatRequest = of.variant<preheat.HostPreheatRequest, 'action'>('action', {
  ask: {},
  start: { id, order },
  status: { id, missing: digests },
  cancel: { id },
});

/** The zone of the host, and its progress. */
export const hostPreheatReply = of.struct<preheat.HostPreheatReply>({
  zone: name,
  progress: of.optional(
    of.struct<preheat.HostProgress>({
      ...progressFields,
      reason,
      stuck: of.optional(of.struct<preheat.StuckBlock>({ digest, index })),
    }),
  ),
});
