import type { Command } from 'commander';
import {
  findBlockImage,
  layerSource,
  readConfig,
  readShippedTrace,
  type BlockImage,
} from '../../convert/block-image.ts';
import { CHAIN_ANNOTATION } from '../../convert/block-manifest.ts';
import { withFile } from '../../convert/files.ts';
import { openLayerFile } from '../../convert/flatten.ts';
import { readParts } from '../../convert/places/manifest-parts.ts';
import { isPlace, openSource, PLACES } from '../../convert/places/open-place.ts';
import { digestedLayers } from '../../image/block-digests.ts';
import type { Digest } from '../../image/digest.ts';
import { openLayer, type Layer } from '../../image/layer.ts';
import { LayeredImage } from '../../image/layered-image.ts';
import { SECTOR_BYTES } from '../../image/lsmt-header.ts';
import { blockLayers, traceLayer } from '../../image/manifest.ts';
import { ZERO_LAYER } from '../../image/segment-map.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { summaryOf, type TraceSummary } from '../../trace/summary.ts';
import { defined } from '../../util/assert.ts';
import { toHex } from '../../util/bytes.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import {
  addRegistryOptions,
  platformOf,
  withPlaces,
  type RegistryOptions,
} from './image-places.ts';
import { longWork } from './long-work.ts';
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

interface Options extends RegistryOptions {
  readonly platform?: string;
  readonly json?: boolean;
}

const TEXT = `
An image: ${PLACES}
Of an image it reads the manifest, the config, and headers and index of each layer.

Examples:
  xylem inspect docker://registry.example/app:1.4-block
  xylem inspect layer.overlaybd.commit
  xylem inspect --json oci:./images:app-1.4 | jq '.layers[].compressionRatio'`;

/** `xylem inspect`: shows the parts of a layer blob, or of an image. */
export function registerInspect(program: Command): void {
  addRegistryOptions(
    program
      .command('inspect')
      .description('show the parts of a block image, or of one layer blob')
      .argument('<blob>', 'an image, or the file of a block layer (tar, ZFile or LSMT)'),
  )
    .option('--platform <os/arch>', 'of a multi-platform image (default: that of this host)')
    .addOption(jsonOption())
    .addHelpText('after', TEXT)
    .action(async (path: string, options: Options) => {
      if (isPlace(path)) {
        const image = await inspectImage(path, options);
        printFacts(options.json, image, imageTextOf(image));
        return;
      }
      const layer = await withFile(path, 'read', (file) => openLayerFile(file, new NodeCodec()));
      const facts = factsOf(layer);
      printFacts(options.json, facts, textOf(path, facts));
    });
}

/** What `inspect` reports of a layer of an image. */
interface ImageLayerFacts extends LayerFacts {
  readonly digest: Digest;
  /** Chain id of the layers of the original image up to this one; absent when nothing tells. */
  readonly chainId?: string;
  /** BLAKE3 over the shipped digests of its blocks, in hex; absent when the image ships none. */
  readonly blockDigestsRoot?: string;
}

/** What `inspect` reports of an image; the fields of `--json`. */
interface ImageFacts {
  readonly image: string;
  readonly digest: Digest;
  readonly platform: string;
  /** Manifest of the original, when this image is listed among its referrers. */
  readonly subject?: Digest;
  readonly deviceBytes: number;
  /** Of the block layers. */
  readonly blobBytes: number;
  readonly uncompressedBytes: number;
  readonly compressionRatio: number;
  readonly segmentCount: number;
  /** Bottom first. */
  readonly layers: readonly ImageLayerFacts[];
  /** The layer that ships trace and block digests; null when there is none. */
  readonly accelerationLayer: { readonly digest: Digest; readonly sizeBytes: number } | null;
  /** Null when the image ships none; a trace without reads prefetches nothing. */
  readonly trace: Pick<TraceSummary, 'accessCount' | 'readBytes'> | null;
}

function inspectImage(name: string, options: Options): Promise<ImageFacts> {
  const platform = platformOf(options.platform);
  const codec = new NodeCodec();
  return withPlaces(options, [name], (places) =>
    longWork(async ({ signal }) => {
      const image = await findBlockImage(openSource(name, places), { platform, signal });
      const blobs = blockLayers(image.manifest);
      const layers = await Promise.all(
        blobs.map((blob) => openLayer(layerSource(image.place, blob, signal), codec)),
      );
      const trace = await readShippedTrace(codec, image, signal);
      return imageFactsOf(image, {
        layers,
        config: await readConfig(image, signal),
        trace: trace && summaryOf(trace),
      });
    }),
  );
}

function imageFactsOf(
  { place, stored, manifest }: BlockImage,
  parts: {
    readonly layers: readonly Layer[];
    readonly config: Readonly<Record<string, unknown>>;
    readonly trace: TraceSummary | undefined;
  },
): ImageFacts {
  const roots = new Map(
    digestedLayers(manifest).map(({ blob, root }) => [blob.digest, toHex(root)]),
  );
  const chains = new Map(
    manifest.layers.map(({ digest, annotations }) => [digest, annotations[CHAIN_ANNOTATION]]),
  );
  const blobs = blockLayers(manifest);
  const layers = parts.layers.map((layer, i): ImageLayerFacts => {
    const { digest } = defined(blobs[i], 'a blob for each layer');
    const [chainId, root] = [chains.get(digest), roots.get(digest)];
    return {
      digest,
      ...(chainId !== undefined && { chainId }),
      ...(root !== undefined && { blockDigestsRoot: root }),
      ...factsOf(layer),
    };
  });
  const sum = (of: (layer: LayerFacts) => number): number =>
    layers.reduce((total, layer) => total + of(layer), 0);
  const [blobBytes, uncompressedBytes] = [
    sum(({ blobSizeBytes }) => blobSizeBytes),
    sum(({ uncompressedSizeBytes }) => uncompressedSizeBytes),
  ];
  const { os = 'linux', architecture = 'unknown', variant } = parts.config;
  const { subject } = readParts(stored);
  const { trace } = parts;
  return {
    image: place.name,
    digest: stored.digest,
    platform: [os, architecture, variant].filter(Boolean).join('/'),
    ...(subject !== undefined && { subject }),
    deviceBytes: new LayeredImage(parts.layers).sizeBytes,
    blobBytes,
    uncompressedBytes,
    compressionRatio: Number((uncompressedBytes / blobBytes).toFixed(2)),
    segmentCount: sum(({ segmentCount }) => segmentCount),
    layers,
    accelerationLayer: traceLayer(manifest) ?? null,
    trace: trace ? { accessCount: trace.accessCount, readBytes: trace.readBytes } : null,
  };
}

function imageTextOf(image: ImageFacts): string {
  const { layers, trace, accelerationLayer, subject } = image;
  const digested = layers.filter(({ blockDigestsRoot }) => blockDigestsRoot !== undefined).length;
  const traced =
    trace === null
      ? 'no trace'
      : `a trace of ${trace.accessCount} reads (${formatSizeBytes(trace.readBytes)})`;
  const ships = `${traced}, block digests of ${digested} layers`;
  const rows = layers.flatMap((layer, i): [string, string][] => {
    const { digest, chainId, blockDigestsRoot: root, segmentCount, mappedBytes } = layer;
    return [
      [`layer ${i}`, digest],
      ['  size', `${bytesText(layer.blobSizeBytes)}, ${compressionText(layer)}`],
      ['  segments', `${segmentCount}, of ${formatSizeBytes(mappedBytes)} of data`],
      ...(chainId === undefined ? [] : [['  chain id', chainId] as [string, string]]),
      ['  block digests', root === undefined ? 'none' : `blake3:${root}`],
    ];
  });
  return columns([
    ['image', image.image],
    ['digest', image.digest],
    ['platform', image.platform],
    ...(subject === undefined ? [] : [['subject', subject] as [string, string]]),
    ['device size', bytesText(image.deviceBytes)],
    ['layers', `${layers.length}, ${bytesText(image.blobBytes)}, ratio ${image.compressionRatio}`],
    ['segments', String(image.segmentCount)],
    ['ships', accelerationLayer === null ? 'nothing beside the layers' : ships],
    ...rows,
  ]);
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
  const device =
    facts.virtualSizeBytes === 0 ? 'as the layer below' : bytesText(facts.virtualSizeBytes);
  return columns([
    ['blob', path],
    ['format', facts.wrappers.join(' > ')],
    ['blob size', bytesText(facts.blobSizeBytes)],
    ['compression', compressionText(facts)],
    ['uncompressed', bytesText(facts.uncompressedSizeBytes)],
    ['device size', device],
    ['uuid', facts.uuid || 'none'],
    ['parent uuid', facts.parentUuid || 'none'],
    ['segments', String(facts.segmentCount)],
    ['mapped', bytesText(facts.mappedBytes)],
    ['zeroed', bytesText(facts.zeroedBytes)],
  ]);
}

function compressionText({ zfile, compressionRatio }: LayerFacts): string {
  if (zfile === null) return 'not compressed';
  const { algorithm, blockCount, blockSizeBytes, hasBlockChecksums } = zfile;
  return (
    `${algorithm}, ${blockCount} blocks of ${formatSizeBytes(blockSizeBytes)}, ` +
    `${hasBlockChecksums ? 'with' : 'without'} checksums, ratio ${compressionRatio}`
  );
}

function bytesText(bytes: number): string {
  return `${formatSizeBytes(bytes)} (${bytes} bytes)`;
}
