import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, blockIndex, type BlobRef } from '../../../src/image/block.ts';
import { signNotice, type SignedClaim } from '../../../src/image/signed-claim.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import type { Caller, TreeCalls } from '../../../src/transfer/contracts/calls.ts';
import { WrongReports } from '../../../src/transfer/drive/wrong-reports.ts';
import type { HostAddress, WrongBlobReply, WrongBlobReport } from '../../../src/tree/messages.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { digestOf } from '../../tree/kit/messages.ts';

const SMALL: BlobRef = { digest: digestOf(1), sizeBytes: 3 * BLOCK_SIZE_BYTES };
const STRIPED: BlobRef = { digest: digestOf(2), sizeBytes: 64 * 1024 * 1024 };
const ROOTS = ['a', 'b', 'c'].map((name) => ({ peer: peerId(name), addresses: [] }));

const signer = ed25519Signer(new Uint8Array(32).fill(7));
const notice = signNotice({ hash: new NodeHash(), signer }, SMALL.digest);
const claim: SignedClaim = { ...notice, index: blockIndex(1) };

interface Told extends WrongBlobReport {
  readonly root: string;
}

function make(reply: () => Promise<WrongBlobReply> = () => Promise.resolve({})): {
  reports: WrongReports;
  clock: ManualClock;
  told: Told[];
  noticed: unknown[];
} {
  const [told, noticed, clock]: [Told[], unknown[], ManualClock] = [[], [], new ManualClock()];
  const call = (root: HostAddress, _name: string, request: WrongBlobReport): Promise<unknown> => {
    told.push({ root: root.peer, ...request });
    return reply();
  };
  const transport = { call } as unknown as Caller<TreeCalls>;
  const reports = new WrongReports(
    { transport, clock, logger: silentLogger },
    {
      self: peerId('b'),
      roots: () => ROOTS,
      onNotice: (...word) => void noticed.push(word),
    },
  );
  return { reports, clock, told, noticed };
}

describe('WrongReports', () => {
  it("WrongReports.found() tells the owners alone, and all roots a root's word", async () => {
    const { reports, told } = make();
    reports.found(STRIPED, undefined);
    expect(told.map(({ root }) => root).toSorted()).toEqual(['a', 'c']);
    told.length = 0;
    reports.found(SMALL, undefined);
    expect(told.length).toBeLessThanOrEqual(1);
    // A root's word concerns all: each may own the blob once another root is gone.
    told.length = 0;
    reports.found(SMALL, notice);
    expect(told.map(({ root, claims }) => [root, claims])).toEqual([
      ['a', [notice]],
      ['c', [notice]],
    ]);
    await reports.stop();
  });

  it('WrongReports.weak() sends the claims a minute after a report without effect', async () => {
    const { reports, clock, told } = make();
    reports.found(STRIPED, undefined, [claim]);
    expect(told.map(({ claims }) => claims)).toEqual([[], []]);
    clock.advance(59_999);
    reports.weak(STRIPED, undefined);
    expect(told).toHaveLength(2);
    clock.advance(1);
    reports.weak(STRIPED, undefined);
    expect(told.slice(2).map(({ claims }) => claims)).toEqual([[claim], [claim]]);
    reports.weak(STRIPED, undefined);
    expect(told).toHaveLength(4);
    await reports.stop();
  });

  it("WrongReports.weak() sends a root's word in place of claims", async () => {
    const { reports, told } = make();
    reports.weak(STRIPED, notice);
    expect(told.map(({ claims }) => claims)).toEqual([[notice], [notice]]);
    await reports.stop();
  });

  it('WrongReports passes on the word of the roots that answer, and bears the others', async () => {
    let calls = 0;
    const { reports, noticed } = make(async () => {
      if (calls++ === 0) throw new Error('away');
      return { notice };
    });
    reports.found(STRIPED, undefined);
    await new Promise(setImmediate);
    expect(noticed).toEqual([[STRIPED.digest, notice]]);
    await reports.stop();
    reports.found(STRIPED, undefined);
    expect(calls).toBe(2);
  });
});
