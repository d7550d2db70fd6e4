import { describe, expect, it } from 'vitest';
import { isWhole } from '../../../src/image/attestation.ts';
import { BlockDigests } from '../../../src/image/block-digests.ts';
import { BLOCK_SIZE_BYTES, blockIndex, type BlobOrigin } from '../../../src/image/block.ts';
import type { AttestedBlock } from '../../../src/image/attested-block.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { Attestor } from '../../../src/transfer/drive/attestor.ts';
import { PeerError } from '../../../src/transfer/contracts/transport.ts';
import { OriginReader, type OriginRead } from '../../../src/transfer/drive/origin-reader.ts';
import { defined } from '../../../src/util/assert.ts';
import { BufferPool } from '../../../src/util/buffer-pool.ts';
import { CountingOrigin, ORIGIN } from '../../kit/engine-cluster.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const hash = new NodeHash();
const signer = ed25519Signer(new Uint8Array(32).fill(7));

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
  read: (source?: OriginRead['source']) => Promise<AttestedBlock>;
  reader: OriginReader;
  origin: CountingOrigin;
  judgement: Judgement;
  refused: readonly BlobOrigin[];
  hashed: BlockDigests;
} {
  const [origin, judgement] = [new CountingOrigin(), new Judgement()];
  const refused: BlobOrigin[] = [];
  const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 1, poison: true });
  const attestor = new Attestor({ hash, signer, clock: new ManualClock() });
  let ended = Promise.withResolvers<AttestedBlock>();
  const reader = new OriginReader(
    {
      clock: new ManualClock(),
      origin,
      pool,
      hash,
      attestor,
      wrong: judgement,
      logger: silentLogger,
    },
    {
      origins: { of: () => ORIGIN, refused: (_, at) => void refused.push(at) },
      onBlock: (_, block) => ended.resolve(block),
      onError: () => {},
      onFailed: (_, detail) => ended.reject(new PeerError('not read', detail)),
      onProgress: () => {},
    },
  );
  const blob = origin.add(2 * BLOCK_SIZE_BYTES);
  const bytes = defined(origin.blobs.get(blob.digest), 'the blob');
  const digests = new Uint8Array(64);
  for (const i of [0, 1]) {
    const block = bytes.subarray(i * BLOCK_SIZE_BYTES, (i + 1) * BLOCK_SIZE_BYTES);
    digests.set(hash.blake3(block), 32 * i);
  }
  let attempt = 0;
  const read = (source: OriginRead['source'] = 'origin'): Promise<AttestedBlock> => {
    ended = Promise.withResolvers();
    reader.ask({
      ...{ type: 'ask-origin', attempt: ++attempt, blob, index: blockIndex(1) },
      ...{ kind: 'demand', source },
    });
    return ended.promise;
  };
  return { read, reader, origin, judgement, refused, hashed: BlockDigests.make(blob, digests) };
}

describe('OriginReader.ask()', () => {
  it('attests weakly what nobody distrusts, hashed or not', async () => {
    const { read, judgement, hashed } = make();
    for (const digests of [undefined, hashed]) {
      judgement.digests = digests;
      const block = await read();
      expect(isWhole(block.attestation)).toBe(false);
      block.payload.release();
    }
  });

  it('attests blocks of a distrusted blob as whole once it was hashed', async () => {
    const { read, judgement, hashed } = make();
    Object.assign(judgement, { isDistrustedNow: true, digests: hashed });
    const block = await read();
    expect(isWhole(block.attestation)).toBe(true);
    block.payload.release();
  });

  it('reads nothing of a distrusted blob before it is hashed, but for itself', async () => {
    const { read, reader, origin, judgement } = make();
    judgement.isDistrustedNow = true;
    await expect(read()).rejects.toMatchObject({ code: 'unreachable' });
    expect(origin.bytes).toBe(0);
    const block = await read('fallback');
    expect(reader.isOwn(block)).toBe(true);
    block.payload.release();
  });

  it('attests nothing of a blob that became distrusted while it was read', async () => {
    const { read, origin, judgement } = make();
    const readInto = origin.readInto.bind(origin);
    origin.readInto = async (...read) => {
      await readInto(...read);
      judgement.isDistrustedNow = true;
    };
    await expect(read()).rejects.toMatchObject({ code: 'unreachable' });
  });

  it('attests no block that differs from that of the hashed blob, distrusted or not', async () => {
    const { read, origin, judgement, hashed } = make();
    origin.wrongBlock = 1;
    judgement.digests = hashed;
    for (const isDistrusted of [false, true]) {
      judgement.isDistrustedNow = isDistrusted;
      await expect(read()).rejects.toMatchObject({ code: 'unreachable' });
    }
  });

  it('tells of a place where the registry says no, and of no other failure', async () => {
    const { read, origin, refused } = make();
    const codes = ['unavailable', 'protocol', 'not-found', 'refused'] as const;
    for (const code of codes) {
      origin.readInto = () => Promise.reject(new OriginError('no', { code }));
      await expect(read()).rejects.toBeInstanceOf(PeerError);
      expect(refused).toHaveLength(Math.max(0, codes.indexOf(code) - 1));
    }
    expect(refused).toEqual([ORIGIN, ORIGIN]);
  });
});
