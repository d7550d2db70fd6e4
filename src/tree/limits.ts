/**
 * Children of its own colour that an inner host has in a tree, and slots that every host keeps in
 * reserve (tunable). Inner hosts have more children in all: `CHILDREN_MAX` in owner/colours.ts.
 */
export const INNER_CHILDREN = 2;

/**
 * Kinds of trees of one owner (tunable). A host is *inner* in the trees of one colour: there it has
 * `INNER_CHILDREN` inner children and one of every other colour, and in the other trees none. So it
 * sends at most `(COLOURS + 1) / COLOURS` of what it receives, where a plain tree makes half of the
 * hosts send twice as much and the others nothing. The sweep is in docs/TREES.md.
 */
export const COLOURS = 4;

/** A member that says nothing for this long is taken out of its trees (tunable). */
export const MEMBER_EXPIRY_MS = 20 * 60_000;

/**
 * A report lists every place held; a tree that a host's reports leave out for this long is one that it no longer wants
 * (its LEAVE was lost). Four reports of 30 s: longer than any answer to a JOIN can be under way.
 */
export const UNLISTED_MS = 4 * 30_000;

/** Two children that lose the same parent within this time make it suspected. Two reports of 30 s. */
export const LOST_WINDOW_MS = 60_000;

/** Hosts that one owner keeps; twelve times the largest cluster that we simulate on every change. */
export const HOSTS_MAX = 131_072;

/** Trees that one owner keeps: 2,048 large blobs of 8 stripes. */
export const TREES_MAX = 16_384;

/** Members of one tree. */
export const MEMBERS_PER_TREE_MAX = 65_536;

/** Hosts remembered that were taken out of a tree without their word; a forgotten one costs a hop budget at worst. */
export const GHOSTS_MAX = 16_384;

/** Blobs in one JOIN: an image has at most 255 layers (LAYER_COUNT_MAX); a batch may hold those of two. */
export const BLOBS_PER_JOIN_MAX = 512;

/** JOINs to one owner at a time; what is wanted beyond that goes together with the next. */
export const JOINS_UNDER_WAY_MAX = 4;

/** Places listed in one report: 512 blobs of 8 stripes. */
export const PLACES_PER_REPORT_MAX = 4_096;

/** Lost peers in one report; more say that the reporter itself is cut off. */
export const LOST_PER_REPORT_MAX = 64;

/** Ancestors in a place. A chain of that length takes longer than a read may wait; a longer path is refused. */
export const PATH_MAX = 64;

/** Blobs whose holders and touch order are remembered; the one unused for longest goes first. */
export const BLOBS_REMEMBERED_MAX = 4_096;

/** Blocks in a remembered touch order: 2 GiB of touched bytes per blob at 256 KiB a block. */
export const ORDER_BLOCKS_MAX = 8_192;

/** Holders remembered per blob; the one with the fewest blocks goes first. */
export const HOLDERS_PER_BLOB_MAX = 64;

/** A host that did not give what it said it holds is not believed for this long; the one found out first is forgotten first. (tunable) */
export const DISTRUST_MS = 10 * 60_000;
export const DISTRUSTED_MAX = 4_096;

/** Runs remembered per holder; further runs are forgotten, which costs a read from the registry at worst. */
export const RUNS_PER_HOLDER_MAX = 128;

/** Holders named for one block. */
export const HOLDERS_ANSWERED_MAX = 8;

/** Time between the reports of a host to one owner (tunable); a tenth more or less, so that hosts do not report in step. */
export const REPORT_INTERVAL_MS = 30_000;

/** A host that was given another parent says so within this time: until then nobody new is placed below it. */
export const ACK_DELAY_MS = 1_000;

/** Longest wait of a host with a lost parent before it asks for a new place; spreads the siblings. */
export const LOST_DELAY_MS = 200;

/** A lost peer is passed over for this long, then tried again. */
export const LOST_COOL_DOWN_MS = 30_000;

/** Lost peers remembered; the one lost first goes first. */
export const LOST_REMEMBERED_MAX = 1_024;

/** Wait before a request that failed is repeated to the same root, half more or less. */
export const RETRY_MS = 1_000;

/** Requests that fail in a row before the next root takes over; one is enough when the connection broke as well. */
export const FAILURES_MAX = 2;

/** A root that is down is tried again after this time, doubled at each failure up to the maximum, half more or less. */
export const ROOT_DOWN_MS = 2_000;
export const ROOT_DOWN_MS_MAX = 60_000;
