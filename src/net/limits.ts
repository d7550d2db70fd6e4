import { BLOCK_SIZE_BYTES } from '../image/block.ts';
import { KIB, MIB } from '../util/bytes.ts';

/** Longest payload of an ANSWER. */
export const PAYLOAD_BYTES_MAX = BLOCK_SIZE_BYTES;

/**
 * Blocks told in one ORDER frame (16 KiB of indices); longer orders are cut into several frames.
 */
export const ORDER_INDICES_MAX = 4096;

/** Milliseconds that a REQUEST may say its asker waits: as long as any read. So no peer holds places of waiters for long. */
export const REQUEST_TIMEOUT_MS_MAX = 30_000;

/** Milliseconds that a peer may tell us to stay away. */
export const RETRY_AFTER_MS_MAX = 60_000;

/**
 * Block requests in flight per connection and direction: 32 x 256 KiB = 8 MiB that a peer can make
 * either side hold. The asker keeps to it; the answerer refuses requests beyond it with
 * `overloaded`.
 */
export const REQUESTS_IN_FLIGHT_MAX = 32;

/** Of these, prefetches that the asker sends: a quarter stays free for demand reads. */
export const PREFETCHES_IN_FLIGHT_MAX = 24;

/**
 * Requests to one peer that wait here for credit, per kind; beyond it the caller gets `overloaded`.
 */
export const REQUESTS_QUEUED_MAX = 256;

/**
 * What a caller is told to wait when the local queue is full, and a peer when it asks beyond its
 * credit.
 */
export const OVERLOADED_RETRY_MS = 100;

/**
 * Peers that our requests wait for at a time: parents, alternates and roots are a handful, the
 * bound is for defects.
 */
export const PEERS_ASKED_MAX = 4096;

/**
 * Small frames (errors, pongs, orders) that wait for a peer that reads slowly; beyond it the peer
 * is cut off.
 */
export const SMALL_FRAMES_QUEUED_MAX = 1024;

/** Streams of a requester on `/xylem/block/1`: one for demand, one for the rest. */
export const BLOCK_STREAMS_IN_MAX = 2;

/** Streams of a caller on `/xylem/tree/3`. */
export const TREE_STREAMS_MAX = 1;

/**
 * Calls in flight on one stream that are answered from memory; we send at most as many to one peer.
 */
export const MEMORY_CALLS_MAX = 8;

/**
 * Calls on one stream that may wait for a registry. They have places of their own: a slow registry
 * delays no JOIN.
 */
export const REGISTRY_CALLS_MAX = 32;

/**
 * Of these, our calls to one peer that may wait for one registry: a silent one leaves places for
 * three others.
 */
export const CALLS_PER_REGISTRY_MAX = 8;

/**
 * Largest message of `/xylem/tree/3`: a manifest (4 MiB) or the places of an image of 255 layers,
 * with room.
 */
export const TREE_MESSAGE_BYTES_MAX = 8 * MIB;

/**
 * Places in trees that one identity may have an owner work on in JOIN, REPORT and LEAVE: 2 % of its thread,
 * and at once what 20 images of 50 layers have, or a host that joins anew all that it holds twice over.
 */
export const PLACES_PER_SECOND_PER_PEER = 2_000;
export const PLACES_BURST_PER_PEER = 8_192;

/** The same of one address: hosts behind one NAT that all start at once share it, a fifth of the thread. */
export const PLACES_PER_SECOND_PER_ADDRESS = 20_000;
export const PLACES_BURST_PER_ADDRESS = 131_072;

/** Bytes of a request whose reading costs as much as a place. */
export const PLACE_BYTES = 64;

/** Identities and addresses whose budgets are remembered; who asked longest ago has a full one again. */
export const BUDGETS_MAX = 16_384;

/** Milliseconds from the first byte of a request to its last; then its stream is reset. */
export const REQUEST_ARRIVAL_MS_MAX = 10_000;

/**
 * Bytes of requests of all peers that have not arrived in full; the stream that goes over it is
 * reset.
 */
export const UNFINISHED_BYTES_MAX = 64 * MIB;

/**
 * Most of a tree message that one frame carries: what another message waits for, 0.35 ms at 1.5
 * Gbit/s.
 */
export const TREE_CHUNK_BYTES = 64 * KIB;

/**
 * Milliseconds for a tree call when its caller's signal says nothing shorter. A root may have to
 * ask the registry first.
 */
export const TREE_CALL_MS_MAX = 30_000;

/** Milliseconds in which a stream must be agreed on: two round trips. */
export const STREAM_OPEN_MS = 3_000;

/**
 * What a peer may send on a stream before it is told to go on: four blocks. With yamux's 256 KiB
 * every answer of a block waited for the round trip of a grant before its end.
 */
export const STREAM_WINDOW_BYTES = 1024 * 1024;

/**
 * Milliseconds for a dial with all its addresses and tries; a listener in a storm takes 90
 * connections a second and core.
 */
export const DIAL_MS = 5_000;

/** Milliseconds for one address, so that a dead one does not use up the dial. */
export const ADDRESS_DIAL_MS = 2_000;

/**
 * Tries within one dial: a full listener cuts a connection, which looks like a reset and passes.
 */
export const DIAL_TRIES = 3;

/**
 * Pause between tries, and after a dial that failed; doubles with every failure, up to
 * `BACKOFF_MS_MAX`.
 */
export const BACKOFF_MS_MIN = 100;

/** Longest pause between tries, and after dials that failed. */
export const BACKOFF_MS_MAX = 10_000;

/** Peers whose failures are remembered; the oldest is forgotten first. */
export const BACKOFF_PEERS_MAX = 4096;

/** Addresses of one host that are tried or handed out. */
export const ADDRESSES_MAX = 8;

/**
 * Connections at one agent: every host of a 10,000-host cluster may hang on one root. About 80-190
 * KiB each.
 */
export const CONNECTIONS_MAX = 12_288;

/** Connections to one peer: two when both dial at once; more are a defect or an attack. */
export const CONNECTIONS_PER_PEER_MAX = 4;

/**
 * New connections per second from one address: a NAT, or many agents on one machine. libp2p's
 * default of 5 starves both.
 */
export const INBOUND_PER_SECOND_MAX = 100;

/**
 * Inbound connections in their handshake: 10 ms of CPU each, so the last one still makes it within
 * a dial.
 */
export const INBOUND_PENDING_MAX = 512;

/** Milliseconds for an inbound handshake: as long as the dialler waits. */
export const INBOUND_UPGRADE_MS = 5_000;

/** Cluster keys valid at once: one, or two while the key changes. */
export const CLUSTER_KEYS_MAX = 2;

/** How often the cluster keys are read again. */
export const CLUSTER_KEYS_CHECK_MS = 5_000;

/**
 * Milliseconds from an open connection to its admission: three round trips, behind the handshakes
 * of a storm.
 */
export const ADMISSION_MS = 5_000;

/** Streams of an admission in each direction: one in flight, one that is closing. */
export const ADMISSION_STREAMS_MAX = 2;

/** Milliseconds in which a refused peer may read that it is. */
export const REFUSED_LINGER_MS = 250;

/** How often the log tells of hosts that dialled with another version of the wire protocol. */
export const VERSION_TOLD_MS = 60_000;

/**
 * Inbound connections that are not admitted yet, from the first packet on: as many as may be in
 * their handshake.
 */
export const UNADMITTED_MAX = 512;

/**
 * Of these, from one address: many agents on one machine, or behind one NAT, that start at once.
 */
export const UNADMITTED_PER_ADDRESS_MAX = 128;

/** The same from one /64 of IPv6, of which a single machine may have all addresses. */
export const UNADMITTED_PER_NETWORK_MAX = 256;

/**
 * Admitted identities at one address. They cost nothing, so all that is bounded by identity is bounded
 * by this many times that for a machine. Far more agents than run on one machine, or behind one NAT.
 */
export const IDENTITIES_PER_ADDRESS_MAX = 256;

/** Bytes that a peer may send between its handshake and its admission, which takes about 300. */
export const UNADMITTED_BYTES_MAX = 16 * KIB;

/** Handshakes in flight at a time when a key was taken away and the others are proved anew. */
export const RENEWALS_MAX = 32;

/**
 * Failed admissions after which an address is turned away, one forgotten per
 * `FAILURE_FORGOTTEN_MS`: a scanner, a probe, a host with a wrong key.
 */
export const ADDRESS_FAILURES_MAX = 16;

/** Milliseconds after which one failed admission of an address is forgotten. */
export const FAILURE_FORGOTTEN_MS = 1_000;

/** The same of one /64 of IPv6, which many hosts may share. */
export const NETWORK_FAILURES_MAX = 64;

/** How long a peer is turned away after a failed proof, and an address after too many; doubles with each time up to the second. */
export const BAN_MS_MIN = 1_000;

/** Longest time for which a peer or an address is turned away. */
export const BAN_MS_MAX = 30_000;

/** Milliseconds without failures after a ban, until the next ban is short again. */
export const BAN_FORGOTTEN_MS = 300_000;

/**
 * Peers, and addresses, whose failures are remembered; the one that failed longest ago is forgotten
 * first.
 */
export const BANS_MAX = 4096;

/**
 * Patience with a peer that owes us blocks: a dead host is noticed within 6 s, and its connection
 * is given up. A root with 10,000 idle hosts answers 667 pings a second.
 */
export const BLOCK_PATIENCE = {
  pingAfterMs: 2_000,
  pingAfterIdleMs: 15_000,
  pongMs: 4_000,
  lateMsMax: 1_000,
} as const;

/**
 * Patience with a peer that owes us the reply to a call: calls fail after 1 s of silence, and the
 * caller asks another root. The connection stays: a root that stood still for a second must not
 * shake hands anew with all its hosts.
 */
export const CALL_PATIENCE = { pingAfterMs: 300, pongMs: 700, lateMsMax: 250 } as const;

/**
 * An inbound requester that sent nothing for this long is gone: three of its idle pings and their
 * wait.
 */
export const INBOUND_SILENT_MS = 60_000;

/** How often inbound requesters are checked. */
export const INBOUND_SWEEP_MS = 10_000;

/**
 * Milliseconds for the answer to a request that was given up, at least `cancelled`; a peer that
 * sends none breaks the protocol.
 */
export const ABANDONED_MS_MAX = 10_000;

/** Milliseconds in which `stop()` has closed everything. */
export const STOP_MS = 3_000;
