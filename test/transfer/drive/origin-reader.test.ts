import { describe, expect, it } from 'vitest';
import { isWhole } from '../../../src/image/attestation.ts';
import { BlockDigests } from '../../../src/image/block-digests.ts';
import { BLOCK_SIZE_BYTES, blockIndex, type BlobRef } from '../../../src/image/block.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { Attestor } from '../../../src/transfer/drive/attestor.ts';
import { OriginReader } from '../../../src/transfer/drive/origin-reader.ts';
import { defined } from '../../../src/util/assert.ts';
import { BufferPool } from '../../../src/util/buffer-pool.ts';
import { CountingOrigin, ORIGIN } from '../../kit/engine-cluster.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const hash = new NodeHash();
const signer = ed25519Signer(new Uint8Array(32).fill(7));
const never = new AbortController().signal;

/** A root that may distrust the blob, and may have hashed all of it. */
class Judgement {
  isDistrustedNow = false;
  digests: BlockDigests | undefined;

  isDistrusted(): boolean {
    return this.isDistrustedNow;
  }

  digestsOf(): BlockDigests | undefined {
    if (this.digests === undefined && this.isDistrustedNow) {
      throw new OriginError('not hashed yet', { code: 'unavailable' });
    }
    return this.digests;
  }
}

function make(): {
  reader: OriginReader;
  origin: CountingOrigin;
  judgement: Judgement;
  blob: BlobRef;
  hashed: BlockDigests;
} {
  const [origin, judgement] = [new CountingOrigin(), new Judgement()];
  const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 1, poison: true });
  const attestor = new Attestor({ hash, signer, clock: new ManualClock() });
  const reader = new OriginReader(
    { origin, pool, hash, attestor, wrong: judgement },
    { originOf: () => ORIGIN },
  );
  const blob = origin.add(2 * BLOCK_SIZE_BYTES);
  const bytes = defined(origin.blobs.get(blob.digest), 'the blob');
  const digests = new Uint8Array(64);
  for (const i of [0, 1]) {
    const block = bytes.subarray(i * BLOCK_SIZE_BYTES, (i + 1) * BLOCK_SIZE_BYTES);
    digests.set(hash.blake3(block), 32 * i);
  }
  return { reader, origin, judgement, blob, hashed: BlockDigests.make(blob, digests) };
}

const asked = (blob: BlobRef, fallback = false): Parameters<OriginReader['read']>[0] => ({
  blob,
  index: blockIndex(1),
  fallback,
});

describe('OriginReader.read()', () => {
  it('attests weakly what nobody distrusts, hashed or not', async () => {
    const { reader, judgement, blob, hashed } = make();
    for (const digests of [undefined, hashed]) {
      judgement.digests = digests;
      const block = await reader.read(asked(blob), never);
      expect(isWhole(block.attestation)).toBe(false);
      block.payload.release();
    }
  });

  it('attests blocks of a distrusted blob as whole once it was hashed', async () => {
    const { reader, judgement, blob, hashed } = make();
    Object.assign(judgement, { isDistrustedNow: true, digests: hashed });
    const block = await reader.read(asked(blob), never);
    expect(isWhole(block.attestation)).toBe(true);
    block.payload.release();
  });

  it('reads nothing of a distrusted blob before it is hashed, but for itself', async () => {
    const { reader, origin, judgement, blob } = make();
    judgement.isDistrustedNow = true;
    await expect(reader.read(asked(blob), never)).rejects.toMatchObject({ code: 'unavailable' });
    expect(origin.bytes).toBe(0);
    const block = await reader.read(asked(blob, true), never);
    expect(reader.isOwn(block)).toBe(true);
    block.payload.release();
  });

  it('attests nothing of a blob that became distrusted while it was read', async () => {
    const { reader, origin, judgement, blob } = make();
    const readInto = origin.readInto.bind(origin);
    origin.readInto = async (...read) => {
      await readInto(...read);
      judgement.isDistrustedNow = true;
    };
    await expect(reader.read(asked(blob), never)).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('attests no block that differs from that of the hashed blob, distrusted or not', async () => {
    const { reader, origin, judgement, blob, hashed } = make();
    origin.wrongBlock = 1;
    judgement.digests = hashed;
    for (const isDistrusted of [false, true]) {
      judgement.isDistrustedNow = isDistrusted;
      await expect(reader.read(asked(blob), never)).rejects.toMatchObject({ code: 'unavailable' });
    }
  });
});
