/**
 * What work costs in the simulated world. CPU costs are in milliseconds of one core of the machines that this project is
 * built on; measured 2026-11 on Node 22 with the real libraries, and to be kept in step with what `bench/` prints.
 */

const GIB = 2 ** 30;

/** Receiving a block over Noise and yamux: 1.65 CPU s/GiB. */
export const RECEIVE_MS_PER_BYTE = (1.65 * 1000) / GIB;

/** Sending a block over Noise and yamux: 1.8 CPU s/GiB. */
export const SEND_MS_PER_BYTE = (1.8 * 1000) / GIB;

/** Checking a block: BLAKE3 at 5 GB/s, four hashes of its way up the batch, and its share of an Ed25519 verification in a batch of four. */
export const HASH_MS_PER_BYTE = 1000 / 5e9;
export const SIGNATURE_MS = 0.035;

/** Writing a block to the store: 0.5 CPU s/GiB, off the network thread. */
export const STORE_MS_PER_BYTE = (0.5 * 1000) / GIB;

/**
 * A small message, received and handled, or made and sent: half each. `npm run bench join`, 2026-11-25: 0.10 for a call and its
 * reply (STAT), which is a half of each at the owner. Messages that come many at a time on one connection cost about half of it.
 */
export const MESSAGE_MS = 0.1;

/**
 * A JOIN of the 8 layers of an image at one of four owners (14 places), received, decoded, placed, its reply encoded. `npm run bench
 * join`, 2026-11-25: 0.33 all in, of which the sending of the reply is charged as half a message.
 */
export const JOIN_MS = 0.28;

/** A new connection (dial, Noise, yamux). */
export const DIAL_MS = 13;
export const LISTEN_MS = 10;

/** Round trips of a new connection before the first request can leave: TCP, and Noise XX. */
export const HANDSHAKE_ROUND_TRIPS = 1.5;

/** Decoding ZFile blocks (LZ4, 4 KiB): 730 MB/s, charged to whoever reads first. */
export const DECODE_MS_PER_BYTE = 1000 / 730e6;

/** CPU of a container from its start to its readiness, in milliseconds. */
export const CONTAINER_CPU_MS = 1100;

/** Of it, before the first read: namespaces, mounts, the runtime's own work. */
export const CONTAINER_SETUP_CPU_MS = 300;

/** Wire bytes of a small message. */
export const MESSAGE_BYTES = 160;
