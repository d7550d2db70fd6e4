import type { Hash, Signer } from '../runtime/codec.ts';
import { assert, defined } from '../util/assert.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { bytesEqual } from '../util/bytes.ts';
import { viewOf } from './binary.ts';
import type { BlockIndex } from './block.ts';
import { digestBytes, type Digest } from './digest.ts';

/**
 * A root's word that it read this block from the registry, or, with `whole`, that it hashed all of
 * the blob besides and found its digest right. It travels with the block and is stored with it.
 *
 * One Ed25519 signature covers a batch of up to eight blocks, of any blobs, by a Merkle tree over
 * them:
 *
 *     leaf      SHA-256("xylem-block-attestation-3" (25) | blob sha256 (32)
 *               | block index u32 LE (4) | whole u8 | BLAKE3 of the block (32))
 *     node      SHA-256(1 (1) | left (32) | right (32))
 *     signed    "xylem-batch-attestation-3" (25) | root of the tree (32)
 *
 * A batch is filled up with zero leaves to 1, 2, 4 or 8. `signature`, 164 bytes:
 *
 *     Ed25519 signature (64) | depth u8, 0 to 3 | position of the leaf u8 | whole u8 | zero (1)
 *     | the nodes beside the way up (3 * 32), zeros beyond the depth
 *
 * A root makes `whole` claims only of a blob that it distrusts: one of which wrong blocks were
 * attested. So a `whole` claim is its signed word that weaker claims of the blob no longer count.
 *
 * Why: Ed25519 costs 110 us of CPU to check and 37 us to make (node:crypto). A block of 256 KiB
 * costs some 850 us to receive and send on, so a signature for each block would add 13 % at every
 * host. An agent remembers batches found good, so that a block of a batch of eight costs an eighth
 * of a check and four small hashes: 20 us or 2.4 %; of a batch of four, 33 us or 3.9 %. Sixteen
 * would save 5 us more and cost every block 32 bytes on the wire and on disk. `npm run bench
 * verify` prints the figures of a machine.
 */
export interface Attestation {
  /** Ed25519 public key of the root that signed, 32 bytes. */
  readonly signer: Uint8Array;
  /** Signature of the batch, and the place of the block in it. */
  readonly signature: Uint8Array;
}

/**
 * Stands beside a block that nobody attested: its host read it for itself alone and passes it on to
 * nobody.
 */
export const NO_ATTESTATION: Attestation = {
  signer: new Uint8Array(32),
  signature: new Uint8Array(164),
};

/** Maximum number of blocks under one signature. */
export const BATCH_BLOCKS_MAX = 8;
const DEPTH_MAX = 3;

const HASH_BYTES = 32;
const ED25519_BYTES = 64;
const DEPTH_AT = ED25519_BYTES;
const POSITION_AT = DEPTH_AT + 1;
const WHOLE_AT = POSITION_AT + 1;
const PATH_AT = DEPTH_AT + 4;

/** Length of `Attestation.signer` in bytes. */
export const ATTESTATION_SIGNER_BYTES = 32;
/** Length of `Attestation.signature` in bytes. */
export const ATTESTATION_SIGNATURE_BYTES = PATH_AT + DEPTH_MAX * HASH_BYTES;

/**
 * Maximum number of remembered batches that were found good: 8 GiB of blocks in full batches, about
 * 1.5 MB of memory. The oldest go first.
 */
const BATCHES_MAX = 4096;

const LEAF_CONTEXT = new TextEncoder().encode('xylem-block-attestation-3');
const BATCH_CONTEXT = new TextEncoder().encode('xylem-batch-attestation-3');
const NODE_MARK = 1;
const EMPTY_LEAF = new Uint8Array(HASH_BYTES);

/** The content of one block, as an attestation claims it. */
export interface BlockClaim {
  readonly blob: Digest;
  readonly index: BlockIndex;
  /** BLAKE3 of its bytes, 32 bytes. */
  readonly blockDigest: Uint8Array;
  /**
   * Whether the root hashed the complete blob and found its digest right; absent: no. A check takes
   * this from the attestation, which `isWhole()` reads.
   */
  readonly whole?: boolean;
}

/**
 * The result of checking a block. Three verdicts are no fault of the host that sent the block, and
 * count as not having it. `unknown-signer`: a root attested the block that this host does not know.
 * `other-size`: a root attested it for a blob of another size than this host knows. `not-whole`: a
 * root attested it without having hashed the blob, of which wrong blocks were found.
 */
export type Verdict = 'good' | 'bad' | 'unknown-signer' | 'other-size' | 'not-whole';

type Sha256 = Pick<Hash, 'sha256'>;

/**
 * Signs up to `BATCH_BLOCKS_MAX` blocks that were read from the registry; returns an attestation
 * for each, in order.
 */
export function attestBatch(
  components: { hash: Sha256; signer: Signer },
  claims: readonly BlockClaim[],
): readonly Attestation[] {
  assert(claims.length > 0 && claims.length <= BATCH_BLOCKS_MAX, `${claims.length} in a batch`);
  const { signer } = components;
  const tree = new TreeHash(components.hash);
  const depth = Math.ceil(Math.log2(claims.length));
  const leaves = claims.map((claim) => tree.leaf(claim));
  while (leaves.length < 2 ** depth) leaves.push(EMPTY_LEAF);
  const levels = [leaves];
  for (let below = leaves; below.length > 1; ) {
    const above: Uint8Array[] = [];
    for (let i = 0; i < below.length; i += 2) above.push(tree.node(at(below, i), at(below, i + 1)));
    levels.push(above);
    below = above;
  }
  const signed = signer.sign(batchMessage(at(at(levels, depth), 0)));
  return claims.map(({ whole = false }, position) => {
    const signature = new Uint8Array(ATTESTATION_SIGNATURE_BYTES);
    signature.set(signed, 0);
    signature[DEPTH_AT] = depth;
    signature[POSITION_AT] = position;
    signature[WHOLE_AT] = whole ? 1 : 0;
    for (let level = 0; level < depth; level++) {
      const beside = (position >> level) ^ 1;
      signature.set(at(at(levels, level), beside), PATH_AT + level * HASH_BYTES);
    }
    return { signer: signer.publicKey, signature };
  });
}

/** Number of blocks in the attestation's batch, filled up to a power of two. */
export function batchSize(attestation: Attestation): number {
  return 2 ** (attestation.signature[DEPTH_AT] ?? 0);
}

/** Whether the root says that it hashed the complete blob. Check the attestation first. */
export function isWhole(attestation: Attestation): boolean {
  return attestation.signature[WHOLE_AT] === 1;
}

interface Batch {
  readonly root: Uint8Array;
  readonly signer: Uint8Array;
  readonly signed: Uint8Array;
}

/**
 * Checks attestations against the keys of the believed roots. It remembers batches, so that a
 * signature is checked once.
 */
export class AttestationChecker {
  readonly #hash: Pick<Hash, 'sha256' | 'ed25519Verify'>;
  readonly #tree: TreeHash;
  #trusted: readonly Uint8Array[];
  /**
   * Batches found good, by the first six bytes of their roots; a collision only costs another
   * check.
   */
  readonly #batches = new BoundedMap<number, Batch>({ entriesMax: BATCHES_MAX });

  constructor(
    components: { hash: Pick<Hash, 'sha256' | 'ed25519Verify'> },
    init: { trusted: readonly Uint8Array[] },
  ) {
    this.#hash = components.hash;
    this.#tree = new TreeHash(components.hash);
    this.#trusted = init.trusted;
  }

  /** Believes these keys, and no others, from here on. */
  trust(keys: readonly Uint8Array[]): void {
    this.#trusted = keys;
  }

  /** Checks that a believed root attested this block. */
  check(claim: BlockClaim, attestation: Attestation): Verdict {
    const { signer, signature } = attestation;
    if (!this.#trusted.some((key) => bytesEqual(key, signer))) return 'unknown-signer';
    const root = this.#rootOf(claim, signature);
    if (root === undefined) return 'bad';
    const signed = signature.subarray(0, ED25519_BYTES);
    const key = viewOf(root).getUint32(0) * 2 ** 16 + viewOf(root).getUint16(4);
    const known = this.#batches.get(key);
    // The signature is compared too: it is passed on with the block to hosts that have not seen the
    // batch.
    if (
      known !== undefined &&
      bytesEqual(known.root, root) &&
      bytesEqual(known.signed, signed) &&
      bytesEqual(known.signer, signer)
    ) {
      return 'good';
    }
    if (!this.#hash.ed25519Verify(signer, batchMessage(root), signed)) return 'bad';
    this.#batches.set(key, { root, signer: signer.slice(), signed: signed.slice() });
    return 'good';
  }

  /** Root of the batch's tree by this block and the way up; undefined when the way is not one. */
  #rootOf(claim: BlockClaim, signature: Uint8Array): Uint8Array | undefined {
    if (signature.length !== ATTESTATION_SIGNATURE_BYTES) return undefined;
    const depth = defined(signature[DEPTH_AT], 'the length was checked');
    const position = defined(signature[POSITION_AT], 'the length was checked');
    if (depth > DEPTH_MAX || position >= 2 ** depth) return undefined;
    const whole = defined(signature[WHOLE_AT], 'the length was checked');
    if (whole > 1 || signature[WHOLE_AT + 1] !== 0) return undefined;
    for (let i = PATH_AT + depth * HASH_BYTES; i < signature.length; i++) {
      if (signature[i] !== 0) return undefined;
    }
    let node = this.#tree.leaf({ ...claim, whole: whole === 1 });
    for (let level = 0; level < depth; level++) {
      const start = PATH_AT + level * HASH_BYTES;
      const beside = signature.subarray(start, start + HASH_BYTES);
      const isLeft = ((position >> level) & 1) === 0;
      node = isLeft ? this.#tree.node(node, beside) : this.#tree.node(beside, node);
    }
    return node;
  }
}

/**
 * Hashes of the tree. SHA-256 of node:crypto takes half the time of native BLAKE3 for inputs of
 * this size (0.8 us).
 */
class TreeHash {
  readonly #hash: Sha256;
  readonly #leaf = new Uint8Array(LEAF_CONTEXT.length + 32 + 4 + 1 + HASH_BYTES);
  readonly #leafView = viewOf(this.#leaf);
  readonly #node = new Uint8Array(1 + 2 * HASH_BYTES);

  constructor(hash: Sha256) {
    this.#hash = hash;
    this.#leaf.set(LEAF_CONTEXT, 0);
    this.#node[0] = NODE_MARK;
  }

  leaf({ blob, index, blockDigest, whole = false }: BlockClaim): Uint8Array {
    assert(blockDigest.length === HASH_BYTES, 'a BLAKE3 digest has 32 bytes');
    this.#leaf.set(digestBytes(blob), LEAF_CONTEXT.length);
    this.#leafView.setUint32(LEAF_CONTEXT.length + 32, index, true);
    this.#leaf[LEAF_CONTEXT.length + 36] = whole ? 1 : 0;
    this.#leaf.set(blockDigest, LEAF_CONTEXT.length + 37);
    return this.#hash.sha256(this.#leaf);
  }

  node(left: Uint8Array, right: Uint8Array): Uint8Array {
    this.#node.set(left, 1);
    this.#node.set(right, 1 + HASH_BYTES);
    return this.#hash.sha256(this.#node);
  }
}

function batchMessage(root: Uint8Array): Uint8Array {
  const message = new Uint8Array(BATCH_CONTEXT.length + HASH_BYTES);
  message.set(BATCH_CONTEXT, 0);
  message.set(root, BATCH_CONTEXT.length);
  return message;
}

function at<T>(list: readonly T[], index: number): T {
  return defined(list[index], 'an index within the tree');
}
