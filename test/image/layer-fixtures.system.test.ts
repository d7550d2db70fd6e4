import { createHash } from 'node:crypto';
import { spawnSync } from 'node:child_process';
import {
  mkdtempSync,
  openSync,
  closeSync,
  ftruncateSync,
  readFileSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { memorySource } from '../../src/image/byte-source.ts';
import { openAppendLayer, openLayer, type Layer } from '../../src/image/layer.ts';
import { LayeredImage } from '../../src/image/layered-image.ts';
import { encodeAppendHeader } from '../../src/image/lsmt-header.ts';
import { encodeIndexLog, indexLog } from '../../src/image/lsmt-index.ts';
import { tarPrefix, tarSuffix } from '../../src/image/tar.ts';
import { encodeTrace, parseTrace } from '../../src/image/trace.ts';
import { verifyLayer } from '../../src/image/verify.ts';
import { bytesEqual } from '../../src/util/bytes.ts';
import { codec, countingSource } from '../kit/layers.ts';
import { describeWith, FIXTURES, needs } from '../kit/requires.ts';

const MIB = 1024 * 1024;
const fixture = (path: string): Uint8Array => readFileSync(join(FIXTURES, path));
const open = (path: string): Promise<Layer> => openLayer(memorySource(fixture(path)), codec);

/** sha256 of the whole device; untouched megabytes are not read. */
async function deviceSha256(image: LayeredImage): Promise<string> {
  const hash = createHash('sha256');
  const zeros = new Uint8Array(MIB);
  for (let offset = 0; offset < image.sizeBytes; offset += MIB) {
    const length = Math.min(MIB, image.sizeBytes - offset);
    const empty = image.plan(offset, length).length === 0;
    hash.update(empty ? zeros.subarray(0, length) : await image.read(offset, length));
  }
  return hash.digest('hex');
}

describeWith('layers that overlaybd made', [needs.fixtures], () => {
  const layers = [0, 1, 2].map((i) => `layers/layer${i}.overlaybd.commit`);

  it('LayeredImage reads three stacked layers as overlaybd does', async () => {
    const image = new LayeredImage(await Promise.all(layers.map(open)));
    expect(image.sizeBytes).toBe(1024 * MIB);
    const expected = '222d16c10a8feb43a849f11f1bad23ba4d7b10a87b47a9fbe61de770b72b6e1b';
    expect(await deviceSha256(image)).toBe(expected);
  });

  it.each([
    ['lz4_32k.tar', 32, 'lz4'],
    ['lz4_4k_mp.zfile', 4, 'lz4'],
    ['zstd16k.tar', 16, 'zstd'],
  ])(
    'openLayer() reads variant %s to the content of the default one',
    async (name, kib, algorithm) => {
      const layer = await open(`variants/layer0.${name}.commit`);
      expect(layer.body.kind).toBe('zfile');
      if (layer.body.kind === 'zfile') {
        expect(layer.body.header.blockSizeBytes).toBe(kib * 1024);
        expect(layer.body.header.algorithm).toBe(algorithm);
      }
      const usual = new LayeredImage([await open(layers[0] ?? '')]);
      expect(await deviceSha256(new LayeredImage([layer]))).toBe(await deviceSha256(usual));
    },
  );

  it('openLayer() needs four reads and keeps the uuids', async () => {
    const source = countingSource(memorySource(fixture(layers[1] ?? '')));
    const layer = await openLayer(source, codec);
    expect(source.reads.length).toBeLessThanOrEqual(5);
    expect(layer.uuid).toBe('22222222-2222-2222-2222-222222222222');
    expect(layer.parentUuid).toBe('11111111-1111-1111-1111-111111111111');
  });

  it('verifyLayer() finds every fixture sound', async () => {
    const blobs = [...layers, 'official/hello-world.native.sha256-022231c3.commit'];
    for (const path of blobs) {
      const result = await verifyLayer(await open(path), codec);
      expect(result.isCovered).toBe(true);
      expect(result.blockCount).toBeGreaterThan(0);
    }
  });

  it('tarPrefix() and tarSuffix() are the bytes that overlaybd writes', () => {
    const blob = fixture(layers[0] ?? '');
    const prefix = tarPrefix(335_469);
    expect(Buffer.from(prefix)).toEqual(Buffer.from(blob.subarray(0, prefix.length)));
    expect(tarSuffix(335_469)).toEqual(new Uint8Array(blob.subarray(prefix.length + 335_469)));
  });

  it('openAppendLayer() reads a writable layer: later writes win', async () => {
    const data = memorySource(fixture('rw/append.data'));
    const layer = await openAppendLayer(data, memorySource(fixture('rw/append.index')));
    const image = new LayeredImage([layer]);
    expect(image.sizeBytes).toBe(1024 * MIB);
    // The superblock of the ext4 in it.
    expect((await image.read(1024 + 56, 2)).join()).toBe('83,239');
  });

  it('a writable layer is written as overlaybd writes it', () => {
    const [data, index] = [fixture('rw/append.data'), fixture('rw/append.index')];
    const init = {
      virtualSizeBytes: 1024 * MIB,
      uuid: 'DEE68C0F-CF09-41BA-9802-9BED12022EE6',
      parentUuid: '00000000-0000-0000-0000-000000000000',
    };
    expect(bytesEqual(encodeAppendHeader(init, 'data'), data.subarray(0, 4096))).toBe(true);
    expect(bytesEqual(encodeAppendHeader(init, 'index'), index.subarray(0, 4096))).toBe(true);
    const limits = { virtualSectors: 0, dataEndSectors: data.length / 512 };
    const rows = [...indexLog(index.subarray(4096), limits)];
    expect(rows).toHaveLength(191);
    expect(bytesEqual(encodeIndexLog(rows), index.subarray(4096))).toBe(true);
  });

  it('parseTrace() and encodeTrace() agree with the recorded trace', () => {
    const bytes = fixture('trace/trace.bin');
    const accesses = parseTrace(bytes, codec);
    expect(accesses).toHaveLength(11);
    expect(accesses[1]).toEqual({ op: 'read', layer: 1, offset: 0, length: 4096 });
    const again = parseTrace(encodeTrace(accesses, codec), codec);
    expect(again).toEqual(accesses);
  });
});

describeWith('the official hello-world layer', [needs.fixtures, needs.program('debugfs')], () => {
  it('LayeredImage shows an ext4 that debugfs reads /hello from', async () => {
    const image = new LayeredImage([
      await open('official/hello-world.native.sha256-022231c3.commit'),
    ]);
    const folder = mkdtempSync(join(tmpdir(), 'xylem-hello-'));
    try {
      const disk = join(folder, 'disk');
      const file = openSync(disk, 'w');
      ftruncateSync(file, image.sizeBytes);
      for (const { offset, length, layer } of image.segmentsIn(0, image.sizeBytes)) {
        if (layer !== undefined)
          writeSync(file, await image.read(offset, length), 0, length, offset);
      }
      closeSync(file);
      const hello = join(folder, 'hello');
      spawnSync('/usr/sbin/debugfs', ['-R', `dump /hello ${hello}`, disk]);
      expect(readFileSync(hello)).toHaveLength(13_256);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
