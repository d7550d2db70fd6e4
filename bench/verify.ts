import { randomBytes } from 'node:crypto';
import {
  attestBatch,
  AttestationChecker,
  BATCH_BLOCKS_MAX,
  type Attestation,
  type BlockClaim,
} from '../src/image/attestation.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../src/image/block.ts';
import { parseDigest } from '../src/image/digest.ts';
import { NodeHash } from '../src/runtime/node/hash.ts';
import { ed25519Signer } from '../src/runtime/node/signer.ts';
import { assert, defined } from '../src/util/assert.ts';
import { blockCost } from './net.ts';
import type { BenchRow } from './rows.ts';

/** Blocks that each row signs and checks. */
const BLOCKS = { full: 16_384, smoke: 16 };

const hash = new NodeHash();
const signer = ed25519Signer(randomBytes(32));
const blob = defined(parseDigest(`sha256:${'5'.repeat(64)}`), 'a digest');

interface Signed {
  readonly claim: BlockClaim;
  readonly attestation: Attestation;
}

/**
 * Measures the cost of attestations beside the transfer of a block. `single` is one signature for
 * each block, which every receiver checks. The other rows are batches: every receiver checks the
 * signature of a batch once.
 */
export async function benchVerify(options: { smoke: boolean }): Promise<BenchRow[]> {
  const count = BLOCKS[options.smoke ? 'smoke' : 'full'];
  const { receiveUs, sendUs } = await blockCost(options);
  const transferUs = receiveUs + sendUs;
  const rows = [row('block of 256 KiB, received and sent on', transferUs, 'us CPU')];
  for (const size of [1, 2, 4, BATCH_BLOCKS_MAX]) {
    const name = size === 1 ? 'single' : `batches of ${size}`;
    const { signed, signUs } = signAll(count, size);
    const checkUs = checkAll(signed);
    rows.push(
      row(`signing, ${name}`, signUs, 'us CPU/block'),
      row(`checking, ${name}`, checkUs, 'us CPU/block'),
      row(`checking, ${name}, of a transfer`, (100 * checkUs) / transferUs, '%'),
    );
  }
  const digestUs = digestAll(count);
  rows.push(
    row('BLAKE3 of the block', digestUs, 'us CPU', 'once, for the check and for the store'),
    row('BLAKE3 of the block, of a transfer', (100 * digestUs) / transferUs, '%'),
  );
  return rows;
}

function claims(count: number): BlockClaim[] {
  return Array.from({ length: count }, (_, i) => ({
    blob,
    index: blockIndex(i),
    blockDigest: randomBytes(32),
  }));
}

function signAll(count: number, size: number): { signed: Signed[]; signUs: number } {
  const all = claims(count);
  const signed: Signed[] = [];
  const signUs = cpuUs(() => {
    for (let i = 0; i < count; i += size) {
      const batch = all.slice(i, i + size);
      for (const [j, attestation] of attestBatch({ hash, signer }, batch).entries()) {
        signed.push({ claim: defined(batch[j], 'a claim'), attestation });
      }
    }
  });
  return { signed, signUs: signUs / count };
}

function checkAll(signed: readonly Signed[]): number {
  const checker = new AttestationChecker({ hash }, { trusted: [signer.publicKey] });
  let good = 0;
  const us = cpuUs(() => {
    for (const { claim, attestation } of signed) {
      if (checker.check(claim, attestation) === 'good') good++;
    }
  });
  assert(good === signed.length, 'every attestation is good');
  return us / signed.length;
}

function digestAll(count: number): number {
  const blocks = Array.from({ length: 16 }, () => randomBytes(BLOCK_SIZE_BYTES));
  const us = cpuUs(() => {
    for (let i = 0; i < count; i++) hash.blake3(defined(blocks[i % blocks.length], 'a block'));
  });
  return us / count;
}

/** CPU of the action in microseconds. */
function cpuUs(action: () => void): number {
  const before = process.cpuUsage();
  action();
  const { user, system } = process.cpuUsage(before);
  return user + system;
}

function row(what: string, value: number, unit: string, note?: string): BenchRow {
  return { bench: 'verify', what, value, unit, ...(note !== undefined && { note }) };
}
