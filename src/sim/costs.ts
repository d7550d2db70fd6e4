/**
 * Costs of work in the simulated world. CPU costs are in milliseconds of one core of the machines
 * that this project is built on. They were measured in 2026-11 on Node 22 with the real libraries;
 * keep them in step with the figures that `bench/` prints.
 */

const GIB = 2 ** 30;

/** Receiving a block over Noise and yamux: 1.65 CPU s/GiB. */
export const RECEIVE_MS_PER_BYTE = (1.65 * 1000) / GIB;

/** Sending a block over Noise and yamux: 1.8 CPU s/GiB. */
export const SEND_MS_PER_BYTE = (1.8 * 1000) / GIB;

/**
 * Checking a block: BLAKE3 at 5 GB/s, four hashes up to the root of its batch, and its share of an
 * Ed25519 verification in a batch of four.
 */
export const HASH_MS_PER_BYTE = 1000 / 5e9;
/** A block's share of an Ed25519 verification in a batch of four. */
export const SIGNATURE_MS = 0.035;

/** Writing a block to the store: 0.5 CPU s/GiB, off the network thread. */
export const STORE_MS_PER_BYTE = (0.5 * 1000) / GIB;

/**
 * A small message, either received and handled, or made and sent: half of this each. `npm run bench
 * join`, 2026-11-25: 0.10 for a call and its reply (STAT), which is one half of each at the owner.
 * Messages that arrive in bulk on one connection cost about half of this.
 */
export const MESSAGE_MS = 0.1;

/**
 * A JOIN of the 8 layers of an image at one of four owners (14 places): the owner receives, decodes
 * and places it, and encodes the reply. `npm run bench join`, 2026-11-25: 0.33 in total; the
 * simulator charges the sending of the reply as half a message.
 */
export const JOIN_MS = 0.28;

/** A new connection (dial, Noise, yamux), at the dialler. */
export const DIAL_MS = 13;
/** A new connection (accept, Noise, yamux), at the listener. */
export const LISTEN_MS = 10;

/** Round trips of a new connection before the first request can leave: TCP, and Noise XX. */
export const HANDSHAKE_ROUND_TRIPS = 1.5;

/** Decoding ZFile blocks (LZ4, 4 KiB): 730 MB/s, charged to the first reader. */
export const DECODE_MS_PER_BYTE = 1000 / 730e6;

/** CPU time of a container from its start to its readiness, in milliseconds. */
export const CONTAINER_CPU_MS = 1100;

/**
 * The part of `CONTAINER_CPU_MS` before the first read: namespaces, mounts, the runtime's own work.
 */
export const CONTAINER_SETUP_CPU_MS = 300;

/** Wire bytes of a small message. */
export const MESSAGE_BYTES = 160;
