import { BLOCKS_MAX, type BlobRef } from '../../image/block.ts';
import { MANIFEST_SIZE_BYTES_MAX } from '../../image/manifest.ts';
import type { SignedClaim } from '../../image/signed-claim.ts';
import {
  BLOBS_PER_JOIN_MAX,
  LOST_PER_REPORT_MAX,
  PATH_MAX,
  PLACES_PER_REPORT_MAX,
  WRONG_CLAIMS_MAX,
} from '../../tree/limits.ts';
import type * as tree from '../../tree/messages.ts';
import * as of from '../wire/codec.ts';
import { badValue } from '../wire/errors.ts';
import { attestation, digest, index, name, origin, peer, size } from '../wire/fields.ts';
import { behindHosts, hostFields } from '../wire/hosts.ts';

/** Stripes that any blob has (src/image/block.ts), with room for a later rule. */
const STRIPES_MAX = 64;

/**
 * Runs of held blocks told of one blob: beyond it the rest is left out, since they are a hint to a
 * new owner.
 */
export const HELD_RUNS_MAX = 1024;

/** Places in one reply: what one request can ask for. */
const PLACES_MAX = PLACES_PER_REPORT_MAX;
const ALTERNATES_MAX = 64;

/** Blobs left or unknown at a time: the places of a report may all be of different blobs. */
const BLOBS_MAX = PLACES_PER_REPORT_MAX;

/** Indices of one order in a reply: 2^17 blocks are 32 GiB touched. */
const ORDER_MAX = 2 ** 17;

const CHALLENGE_BYTES_MAX = 1024;

/** What is wrong with a manifest. */
const WHY_BYTES_MAX = 512;

/** A signed URL: as much as the local endpoint takes. */
const URL_BYTES_MAX = 8 * 1024;

/** An image reference. */
export const imageReference = of.text(1024);

/** The bytes of a manifest. */
export const manifest = of.bytes(MANIFEST_SIZE_BYTES_MAX);

const stripe = of.atMost(STRIPES_MAX - 1, of.u8);
const digests = of.list(digest, BLOBS_MAX);

const run: of.Codec<tree.BlockRun> = {
  write: (writer, [first, count]) => {
    writer.u32(first);
    writer.u32(count);
  },
  read: (reader) => [reader.u32(), reader.u32()],
};

/** Runs ascend and are not empty, so that no list of them holds a block twice. */
const ascendingRuns = of.checked(of.cut(run, HELD_RUNS_MAX), (runs, field) => {
  let free = 0;
  for (const [first, count] of runs) {
    if (first < free || count === 0 || first + count > BLOCKS_MAX) {
      throw badValue(field, `a run of blocks from ${free} on`, `${first}+${count}`);
    }
    free = first + count;
  }
});

const wantedBlob = of.struct<tree.WantedBlob>({
  blob: of.struct<BlobRef>({ digest, sizeBytes: size }),
  origin,
  stripes: of.list(stripe, STRIPES_MAX),
  held: ascendingRuns,
});

const treeFields = { digest, stripe, epoch: of.u64 };

const places = behindHosts<readonly tree.Place[]>(
  (host) => {
    const path = of.list(host, PATH_MAX);
    const alternates = of.list(host, ALTERNATES_MAX);
    return of.list(of.struct<tree.Place>({ ...treeFields, path, alternates }), PLACES_MAX);
  },
  (value) => value.flatMap(({ path, alternates }) => [...path, ...alternates]),
);

const orders = of.list(
  of.struct<tree.TouchOrder>({ digest, indices: of.cut(index, ORDER_MAX, of.u32) }),
  BLOBS_PER_JOIN_MAX,
);

const claim = of.struct<SignedClaim>({ index, blockDigest: of.copied(32), attestation });
const notice = of.optional(claim);

/** Absent when there are none. */
const notices = of.optional(
  of.list(of.struct<tree.BlobNotice>({ digest, notice: claim }), BLOBS_MAX),
);

/** JOIN: the host that asks, and its blobs. */
export const joinRequest = of.struct<tree.JoinRequest>({
  host: of.struct<tree.HostCard>({
    ...hostFields,
    zone: name,
    capacity: of.u16,
    announced: of.absentAs(false, of.flag),
  }),
  blobs: of.list(wantedBlob, BLOBS_PER_JOIN_MAX),
});

/** Places in the trees, and orders of touches. */
export const joinReply = of.struct<tree.JoinReply>({ places, orders, notices });

/** LEAVE: blobs that are no longer wanted. Its reply is empty. */
export const leaveRequest = of.struct<tree.LeaveRequest>({ digests });

/** REPORT: peers that did not answer, and places held. */
export const reportRequest = of.struct<tree.ReportRequest>({
  lost: of.list(peer, LOST_PER_REPORT_MAX),
  held: of.list(of.struct<tree.ReportRequest['held'][number]>(treeFields), PLACES_PER_REPORT_MAX),
});

/** Places that changed, and unknown trees. */
export const reportReply = of.struct<tree.ReportReply>({ places, unknown: digests, notices });

/** RESOLVE: an image reference. */
export const resolveRequest = of.struct<tree.ResolveRequest>({ reference: imageReference });

/** The manifest that the reference stands for. */
export const resolveReply = of.struct<tree.ResolveReply>({
  manifestDigest: digest,
  origin,
  manifest,
});

/** MANIFEST: a tag or a digest of a repository. */
export const manifestRequest = of.struct<tree.ManifestRequest>({ origin, reference: name });

const refusal = { challenge: of.text(CHALLENGE_BYTES_MAX), retryAfterMs: of.u64 };

/** The manifest, or the registry's refusal. */
export const manifestReply = of.variant<tree.ManifestReply, 'outcome'>('outcome', {
  found: { digest, mediaType: name, ageMs: of.u64, bytes: manifest },
  'not-found': refusal,
  unauthorized: refusal,
  denied: refusal,
  'rate-limited': refusal,
  unavailable: refusal,
  'bad-content': { why: of.text(WHY_BYTES_MAX) },
});

/** OPEN: a blob by its origin, perhaps with a signed URL. */
export const openRequest = of.struct<tree.OpenRequest>({
  digest,
  origin,
  url: of.absentAs('', of.text(URL_BYTES_MAX)),
});

/** What the root says of the blob. */
export const openReply = of.variant<tree.OpenReply, 'outcome'>('outcome', {
  open: { key: digest, sizeBytes: size, isPublic: of.flag, isBelieved: of.flag, notice },
  'no-way': { isBelieved: of.flag },
  'not-found': refusal,
  unauthorized: refusal,
  denied: refusal,
  'rate-limited': refusal,
  unavailable: refusal,
});

/** WRONG_BLOB: a blob of which wrong blocks were attested, and claims that show it. */
export const wrongBlobReport = of.struct<tree.WrongBlobReport>({
  digest,
  claims: of.list(claim, WRONG_CLAIMS_MAX),
});

/** The root's own word on it. */
export const wrongBlobReply = of.struct<tree.WrongBlobReply>({ notice });
