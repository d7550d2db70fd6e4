import type { Command } from 'commander';
import { withFile } from '../../convert/files.ts';
import { parseLayoutTarget, readTag } from '../../convert/oci-layout.ts';
import { digestedLayers } from '../../image/block-digests.ts';
import type { Digest } from '../../image/digest.ts';
import { openLayer, type Layer } from '../../image/layer.ts';
import { SECTOR_BYTES } from '../../image/lsmt-header.ts';
import { blockLayers, type Manifest } from '../../image/manifest.ts';
import { ZERO_LAYER } from '../../image/segment-map.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { toHex } from '../../util/bytes.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import { columns, jsonOption, printFacts } from './output.ts';

/** What `inspect` reports of a layer; the fields of `--json`. */
interface LayerFacts {
  readonly blobSizeBytes: number;
  /** Outermost first. */
  readonly wrappers: readonly ('tar' | 'zfile' | 'lsmt')[];
  readonly zfile: {
    readonly algorithm: string;
    readonly blockSizeBytes: number;
    readonly blockCount: number;
    readonly hasBlockChecksums: boolean;
    readonly hasIndexChecksum: boolean;
  } | null;
  /** Size of the LSMT file, uncompressed. */
  readonly uncompressedSizeBytes: number;
  readonly compressionRatio: number;
  /** Size of the block device; 0 when the layer does not say. */
  readonly virtualSizeBytes: number;
  readonly uuid: string;
  readonly parentUuid: string;
  readonly segmentCount: number;
  readonly mappedBytes: number;
  readonly zeroedBytes: number;
}

/** `xylem inspect`: shows the parts of a layer blob. */
export function registerInspect(program: Command): void {
  program
    .command('inspect')
    .description('show the parts of a layer blob; reads only its headers and index')
    .argument('<blob>', 'file of a block layer (tar, ZFile or LSMT), or oci:DIR:tag for an image')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:\n  xylem inspect layer.overlaybd.commit\n' +
        '  xylem inspect oci:./images:app-1.4\n' +
        '  xylem inspect --json layer.overlaybd.commit | jq .virtualSizeBytes',
    )
    .action(async (path: string, options: { json?: boolean }) => {
      if (path.startsWith('oci:')) {
        const image = imageFactsOf(await readTag(parseLayoutTarget(path)));
        printFacts(options.json, image, imageTextOf(image));
        return;
      }
      const layer = await withFile(path, 'read', (file) => openLayer(file, new NodeCodec()));
      const facts = factsOf(layer);
      printFacts(options.json, facts, textOf(path, facts));
    });
}

/** What `inspect` reports of a layer of an image; `--json` prints a list of these, bottom first. */
interface ImageLayerFacts {
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** BLAKE3 over the shipped digests of its blocks, in hex; absent when the image ships none. */
  readonly blockDigestsRoot?: string;
}

function imageFactsOf(manifest: Manifest): readonly ImageLayerFacts[] {
  const roots = new Map(
    digestedLayers(manifest).map(({ blob, root }) => [blob.digest, toHex(root)]),
  );
  return blockLayers(manifest).map(({ digest, sizeBytes }) => {
    const root = roots.get(digest);
    return { digest, sizeBytes, ...(root !== undefined && { blockDigestsRoot: root }) };
  });
}

function imageTextOf(layers: readonly ImageLayerFacts[]): string {
  const rows = layers.flatMap(({ digest, sizeBytes, blockDigestsRoot: root }) => {
    const digests = root === undefined ? 'none' : `blake3:${root}`;
    return [
      ['layer', digest],
      ['  size', bytesText(sizeBytes)],
      ['  block digests', digests],
    ] as const;
  });
  return columns(rows);
}

function factsOf(layer: Layer): LayerFacts {
  const { body, payload, source, segments } = layer;
  const zfile = body.kind === 'zfile' ? body.header : undefined;
  let [mapped, zeroed] = [0, 0];
  for (let row = 0; row < segments.count; row++) {
    const bytes = (segments.lengths[row] ?? 0) * SECTOR_BYTES;
    if (segments.layers[row] === ZERO_LAYER) zeroed += bytes;
    else mapped += bytes;
  }
  return {
    blobSizeBytes: source.sizeBytes,
    wrappers: [
      ...(payload.offset > 0 ? (['tar'] as const) : []),
      ...(zfile ? (['zfile'] as const) : []),
      'lsmt',
    ],
    zfile: zfile
      ? {
          algorithm: zfile.algorithm,
          blockSizeBytes: zfile.blockSizeBytes,
          blockCount: zfile.blockCount,
          hasBlockChecksums: zfile.verify,
          hasIndexChecksum: zfile.indexCrc !== undefined,
        }
      : null,
    uncompressedSizeBytes: body.sizeBytes,
    compressionRatio: Number((body.sizeBytes / payload.sizeBytes).toFixed(2)),
    virtualSizeBytes: layer.virtualSizeBytes,
    uuid: layer.uuid,
    parentUuid: layer.parentUuid,
    segmentCount: segments.count,
    mappedBytes: mapped,
    zeroedBytes: zeroed,
  };
}

function textOf(path: string, facts: LayerFacts): string {
  const { zfile } = facts;
  const compression =
    zfile === null
      ? 'none'
      : `${zfile.algorithm}, ` +
        `${zfile.blockCount} blocks of ${formatSizeBytes(zfile.blockSizeBytes)}, ` +
        `${zfile.hasBlockChecksums ? 'with' : 'without'} checksums, ` +
        `ratio ${facts.compressionRatio}`;
  const device =
    facts.virtualSizeBytes === 0 ? 'as the layer below' : bytesText(facts.virtualSizeBytes);
  return columns([
    ['blob', path],
    ['format', facts.wrappers.join(' > ')],
    ['blob size', bytesText(facts.blobSizeBytes)],
    ['compression', compression],
    ['uncompressed', bytesText(facts.uncompressedSizeBytes)],
    ['device size', device],
    ['uuid', facts.uuid || 'none'],
    ['parent uuid', facts.parentUuid || 'none'],
    ['segments', String(facts.segmentCount)],
    ['mapped', bytesText(facts.mappedBytes)],
    ['zeroed', bytesText(facts.zeroedBytes)],
  ]);
}

function bytesText(bytes: number): string {
  return `${formatSizeBytes(bytes)} (${bytes} bytes)`;
}
