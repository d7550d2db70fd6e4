import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  blobPaths,
  blocksOfGroup,
  dataOffset,
  dataPath,
  decodeHeader,
  digestOfFolder,
  EMPTY_RECORD,
  encodeHeader,
  groupOf,
  groupOfFile,
  HEADER_BYTES,
  RECORD_BYTES,
  RecordCodec,
  recordOffset,
  VERSION_TEXT,
} from '../../src/blockstore/layout.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../src/image/block.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { toHex } from '../../src/util/bytes.ts';
import { testBlob } from '../kit/blocks.ts';

const codec = new NodeCodec();
const blob = testBlob(0xab, 3 * BLOCK_SIZE_BYTES + 100);
const records = new RecordCodec({ codec }, { blob });
const record = {
  lengthBytes: 100,
  blockDigest: new Uint8Array(32).fill(0x11),
  attestation: {
    signer: new Uint8Array(32).fill(0x22),
    signature: new Uint8Array(164).fill(0x33),
  },
};

describe('store layout', () => {
  it('the version file has the golden text', () => {
    expect(VERSION_TEXT).toBe('xylem-store 3\n');
  });

  it('encodeHeader() gives the golden bytes', () => {
    expect(toHex(encodeHeader(codec, blob))).toBe(
      [
        '78796c656d726563030000000000040064000c0000000000abe7e7e7e7e7e7e7',
        'e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e70000000029943e2e',
      ].join(''),
    );
  });

  it('RecordCodec.encode() gives the golden bytes', () => {
    expect(toHex(records.encode(blockIndex(3), record))).toBe(
      [
        '801740d003000000640000000100000011111111111111111111111111111111',
        '1111111111111111111111111111111122222222222222222222222222222222',
        '2222222222222222222222222222222233333333333333333333333333333333',
        '3333333333333333333333333333333333333333333333333333333333333333',
        '3333333333333333333333333333333333333333333333333333333333333333',
        '3333333333333333333333333333333333333333333333333333333333333333',
        '3333333333333333333333333333333333333333333333333333333333333333',
        '3333333333333333333333333333333333333333',
      ].join(''),
    );
  });

  it('blobPaths(), dataOffset() and recordOffset() give the places of the format', () => {
    const hex = blob.digest.slice(7);
    expect(blobPaths(blob.digest)).toEqual({
      shard: 'blobs/ab',
      folder: `blobs/ab/${hex}`,
      records: `blobs/ab/${hex}/records`,
    });
    expect(digestOfFolder('ab', hex)).toBe(blob.digest);
    for (const [shard, name] of [
      ['ac', hex],
      ['ab', `${hex}0`],
      ['ab', hex.toUpperCase()],
      ['', hex],
    ] as const) {
      expect(digestOfFolder(shard, name)).toBeUndefined();
    }
    expect(dataPath(blobPaths(blob.digest), 7)).toBe(`blobs/ab/${hex}/data.7`);
    expect([groupOf(blockIndex(63)), groupOf(blockIndex(64))]).toEqual([0, 1]);
    expect(dataOffset(blockIndex(64 + 3))).toBe(3 * 262_144);
    expect(groupOfFile('data.12')).toBe(12);
    for (const name of ['data', 'data.', 'data.01', 'data.x', 'records', 'data.1234567']) {
      expect(groupOfFile(name)).toBeUndefined();
    }
    expect(blocksOfGroup(0, 10)).toEqual([0, 10]);
    expect(blocksOfGroup(1, 200)).toEqual([64, 64]);
    expect(recordOffset(blockIndex(3))).toBe(64 + 3 * 244);
    expect([HEADER_BYTES, RECORD_BYTES]).toEqual([64, 244]);
  });
});

describe('decodeHeader', () => {
  it('decodeHeader() gives back the blob', () => {
    expect(decodeHeader(codec, encodeHeader(codec, blob))).toEqual(blob);
  });

  it('decodeHeader() refuses a header with any byte changed or missing', () => {
    const good = encodeHeader(codec, blob);
    for (let i = 0; i < good.length; i++) {
      const bad = good.slice();
      bad[i]! ^= 0x40;
      expect(decodeHeader(codec, bad)).toBeUndefined();
      expect(decodeHeader(codec, good.subarray(0, i))).toBeUndefined();
    }
  });

  it('decodeHeader() refuses another version, block size, and sizes out of range', () => {
    const changed = (change: (view: DataView) => void): Uint8Array => {
      const bytes = encodeHeader(codec, blob);
      const view = new DataView(bytes.buffer);
      change(view);
      view.setUint32(60, codec.crc32c(bytes.subarray(0, 60)), true);
      return bytes;
    };
    expect(
      decodeHeader(
        codec,
        changed(() => {}),
      ),
    ).toEqual(blob);
    for (const change of [
      (view: DataView) => view.setUint32(8, 1, true),
      (view: DataView) => view.setUint32(12, 4096, true),
      (view: DataView) => view.setBigUint64(16, 2n ** 40n + 1n, true),
    ]) {
      expect(decodeHeader(codec, changed(change))).toBeUndefined();
    }
  });
});

describe('RecordCodec', () => {
  const good = records.encode(blockIndex(3), record);

  it('RecordCodec.decode() gives back the record', () => {
    expect(records.decode(blockIndex(3), good)).toEqual(record);
    expect(records.check(blockIndex(3), good)).toBe('present');
    expect(records.check(blockIndex(3), EMPTY_RECORD)).toBe('empty');
    expect(records.decode(blockIndex(3), EMPTY_RECORD)).toBeUndefined();
  });

  it('RecordCodec.check() refuses records of another slot, another blob or another length', () => {
    expect(records.check(blockIndex(2), good)).toBe('damaged');
    const other = new RecordCodec({ codec }, { blob: testBlob(0xac, blob.sizeBytes) });
    expect(other.check(blockIndex(3), good)).toBe('damaged');
    const long = records.encode(blockIndex(3), { ...record, lengthBytes: 101 });
    expect(records.check(blockIndex(3), long)).toBe('damaged');
  });

  it('RecordCodec.check() refuses any mixture of a record with the earlier bytes', () => {
    const before = fc.oneof(
      fc.constant(EMPTY_RECORD),
      fc.uint8Array({ minLength: RECORD_BYTES, maxLength: RECORD_BYTES }),
    );
    fc.assert(
      fc.property(before, fc.integer({ min: 0, max: RECORD_BYTES - 1 }), (old, cut) => {
        const torn = good.slice();
        torn.set(old.subarray(cut), cut);
        fc.pre(toHex(torn) !== toHex(good));
        expect(records.check(blockIndex(3), torn)).not.toBe('present');
      }),
    );
  });
});
