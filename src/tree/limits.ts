/**
 * Children of its own colour that an inner host has in a tree, and slots that every host keeps in
 * reserve (tunable). Inner hosts have more children in all: `CHILDREN_MAX` in owner/colours.ts.
 */
export const INNER_CHILDREN = 2;

/**
 * Kinds of trees of one owner (tunable). A host is *inner* in the trees of one colour: it has
 * `INNER_CHILDREN` inner children there and one child of every other colour, and no children in the
 * other trees. So a host sends at most `(COLOURS + 1) / COLOURS` of what it receives. In a plain
 * tree half of the hosts send twice as much as they receive, and the others send nothing. The sweep
 * is in docs/TREES.md.
 */
export const COLOURS = 4;

/**
 * Claims in one report of a wrong blob: all of a blob of 256 MiB, and 232 KiB on the wire. Of a
 * larger blob the first ones.
 */
export const WRONG_CLAIMS_MAX = 1024;

/** An owner removes a member from its trees after this much silence (tunable). */
export const MEMBER_EXPIRY_MS = 20 * 60_000;

/**
 * An owner removes a host from a tree that its reports have left out for this long: the host no
 * longer wants the tree, and its LEAVE was lost. A report lists every place held. Four reports of
 * 30 s: longer than any answer to a JOIN can be in flight.
 */
export const UNLISTED_MS = 4 * 30_000;

/** An owner suspects a parent that two children lose within this time. Two reports of 30 s. */
export const LOST_WINDOW_MS = 60_000;

/**
 * Maximum number of hosts that one owner keeps: twelve times the largest cluster simulated on every
 * change.
 */
export const HOSTS_MAX = 131_072;

/** Maximum number of trees that one owner keeps: 2,048 large blobs of 8 stripes. */
export const TREES_MAX = 16_384;

/** Maximum number of members of one tree. */
export const MEMBERS_PER_TREE_MAX = 65_536;

/**
 * Maximum number of remembered hosts among those that an owner removed from a tree without a LEAVE.
 * Forgetting one costs a hop budget at worst.
 */
export const GHOSTS_MAX = 16_384;

/**
 * Maximum number of blobs in one JOIN. An image has at most 255 layers (LAYER_COUNT_MAX), so a
 * batch may hold those of two images.
 */
export const BLOBS_PER_JOIN_MAX = 512;

/**
 * Maximum number of JOINs in flight to one owner; blobs wanted beyond that go together with the
 * next JOIN.
 */
export const JOINS_UNDER_WAY_MAX = 4;

/** Maximum number of places listed in one report: 512 blobs of 8 stripes. */
export const PLACES_PER_REPORT_MAX = 4_096;

/**
 * Maximum number of lost peers in one report; more than that means that the reporter itself is cut
 * off.
 */
export const LOST_PER_REPORT_MAX = 64;

/**
 * Hosts of its recent places in one tree that a host remembers, to ask them when no source gives a
 * block: those of two places or three. (tunable)
 */
export const KIN_MAX = 8;

/**
 * Maximum number of ancestors in a place; a longer path is refused. A chain of that length takes
 * longer than a read may wait.
 */
export const PATH_MAX = 64;

/**
 * Maximum number of blobs whose holders and touch order an owner remembers; it forgets the least
 * recently used first.
 */
export const BLOBS_REMEMBERED_MAX = 4_096;

/**
 * Maximum number of blocks in a remembered touch order: 2 GiB of touched bytes per blob at 256 KiB
 * a block.
 */
export const ORDER_BLOCKS_MAX = 8_192;

/**
 * Maximum number of holders remembered per blob; an owner forgets the one with the fewest blocks
 * first.
 */
export const HOLDERS_PER_BLOB_MAX = 64;

/**
 * An owner distrusts a host for this long after the host failed to give a block that it claimed to
 * hold. (tunable)
 */
export const DISTRUST_MS = 10 * 60_000;
/** Maximum number of distrusted hosts; an owner forgets the one distrusted first. */
export const DISTRUSTED_MAX = 4_096;

/**
 * Maximum number of runs remembered per holder. An owner forgets further runs, which costs a read
 * from the registry at worst.
 */
export const RUNS_PER_HOLDER_MAX = 128;

/** Maximum number of holders named for one block. */
export const HOLDERS_ANSWERED_MAX = 8;

/**
 * Time between the reports of a host to one owner (tunable), a tenth more or less so that hosts do
 * not report in step.
 */
export const REPORT_INTERVAL_MS = 30_000;

/**
 * A host acknowledges a new parent within this time; until then the owner places nobody new below
 * that host.
 */
export const ACK_DELAY_MS = 1_000;

/**
 * Longest wait of a host that lost its parent before it asks for a new place; spreads the siblings.
 */
export const LOST_DELAY_MS = 200;

/** A host passes over a lost peer for this long, then tries it again. */
export const LOST_COOL_DOWN_MS = 30_000;

/** Maximum number of lost peers remembered; a host forgets the one lost first. */
export const LOST_REMEMBERED_MAX = 1_024;

/** Wait before a host repeats a failed request to the same root, half more or less. */
export const RETRY_MS = 1_000;

/**
 * Requests that fail in a row before the next root takes over. One is enough when the connection
 * broke as well, or when the root showed no sign of life and another one is up.
 */
export const FAILURES_MAX = 2;

/**
 * Wait before a refused JOIN is sent again in two halves, half more or less, to search for the blob
 * that caused the refusal.
 */
export const REFUSED_MS = 200;

/**
 * Longest wait before a blob that is refused alone is asked for again; the wait starts at
 * `RETRY_MS` and doubles, half more or less.
 */
export const REFUSED_MS_MAX = 60_000;

/**
 * A root that is down is tried again after this time, doubled at each failure up to the maximum,
 * half more or less.
 */
export const ROOT_DOWN_MS = 2_000;
/** Longest time after which a root that is down is tried again; see `ROOT_DOWN_MS`. */
export const ROOT_DOWN_MS_MAX = 30_000;

/** The same of a silent root, which is only probed: until it is back, others have its stripes. */
export const PROBE_MS_MAX = 8_000;
