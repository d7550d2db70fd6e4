import { LAYER_COUNT_MAX } from '../../image/manifest.ts';

/** Version of the protocol of the device socket (docs/WIRE_PROTOCOL.md); every change raises it. */
export const LINK_VERSION = 1;

/**
 * Reads in flight on a connection, by its lane: 64 blocks are 16 MiB that either side may hold.
 * More demand reads than this wait for the network in any case; prefetches are few.
 */
export const READS_IN_FLIGHT_MAX = { demand: 64, bulk: 16 } as const;

/** Blocks that a device process waits for; beyond it reads fail with `overloaded`. */
export const BLOCKS_AWAITED_MAX = 4_096;

/** Images that one connection may have open: a host runs some hundred containers. */
export const OPENS_MAX = 1_024;

/** Of these, images that are being opened at a time. Each may bring a manifest of 4 MiB. */
export const OPENING_MAX = 16;

/** Most layers that an OPEN names. */
export const OPEN_LAYERS_MAX = LAYER_COUNT_MAX;

/** Most bytes of an image reference (src/registry/reference.ts takes as many characters). */
export const REFERENCE_BYTES_MAX = 512;

/** Most bytes of the text of an error; a longer one is cut. */
export const ERROR_BYTES_MAX = 1_024;

/** Connections to the device socket: two of a device process, two of the next one, and a spare. */
export const CONNECTIONS_MAX = 8;

/** Milliseconds from a connection to its HELLO, and from HELLO to WELCOME. */
export const HELLO_MS = 5_000;

/** Pause after a connection that failed or was lost; doubles up to the second. */
export const RECONNECT_MS_MIN = 50;
/** Longest pause between connections, and between tries of one read. */
export const RECONNECT_MS_MAX = 1_000;

/** Longest pause between tries to open an image again that the agent refuses to. */
export const REOPEN_MS_MAX = 5_000;

/** Milliseconds that a read waits, for the agent and in it, unless its reader says otherwise. */
export const READ_TIMEOUT_MS = 60_000;

/** Milliseconds that an image may take to open, unless its opener says otherwise. */
export const OPEN_TIMEOUT_MS = 30_000;

/**
 * Milliseconds after which an image that is not in use is not waited for any longer when there is
 * no agent: a restart takes less.
 */
export const ABSENT_MS = 10_000;

/** Longest wait that READ and OPEN may name. */
export const TIMEOUT_MS_MAX = 3_600_000;

/** Whole blocks that a device process keeps in memory: 16 MiB. */
export const BLOCKS_KEPT_MAX = 64;

/**
 * Share of the time left to a read or an open that the agent is given: so that its reason comes
 * back before the deadline.
 */
export const ANSWER_SHARE = 0.9;
