import { Option, type Command } from 'commander';
import { BLOCK_IMAGE_DEFAULTS, type BlockImageOptions } from '../../convert/block-image-builder.ts';
import { convertDirectory } from '../../convert/convert-directory.ts';
import { convertImage, type ConversionResult } from '../../convert/convert-image.ts';
import { ConvertError } from '../../convert/errors.ts';
import { LayerCache, type KeptLayer } from '../../convert/layer-cache.ts';
import {
  atDigest,
  openSource,
  openTarget,
  openUntagged,
  PLACES,
  withTag,
} from '../../convert/places/open-place.ts';
import { IMAGE_SIZE_BYTES_MAX } from '../../image/lsmt-header.ts';
import { platformName } from '../../registry/platform.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeDecompressor } from '../../runtime/node/decompressor.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { defined } from '../../util/assert.ts';
import { MIB } from '../../util/bytes.ts';
import { formatSizeBytes, parseSizeBytes } from '../../util/sizes.ts';
import {
  addRegistryOptions,
  platformOf,
  withPlaces,
  type RegistryOptions,
} from './image-places.ts';
import { runCheck } from './check.ts';
import { inWorkFolder, longWork, sayCleared, type ProgressKind } from './long-work.ts';
import { jsonOption, printFacts, warn } from './output.ts';

const DIRECTORY_PREFIX = 'dir:';

/** Bytes of the blocks that are compressed one by one: what overlaybd reads safely. */
const BLOCK_BYTES = [4096, 8192, 16_384, 32_768];
const DEVICE_BYTES_MIN = 16 * MIB;

interface Options extends RegistryOptions {
  readonly platform?: string;
  readonly compression: string;
  readonly blockSize: string;
  readonly size: string;
  readonly referrer?: boolean;
  readonly reuse: boolean;
  readonly owner?: string;
  readonly workDir?: string;
  readonly verify?: boolean;
  readonly progress: ProgressKind;
  readonly json?: boolean;
}

const TEXT = `
SRC: ${PLACES}, or dir:PATH
DST: ${PLACES}; an archive keeps
     no layers for later conversions. With --referrer it may be absent: the block image goes into
     the repository of SRC then, without a tag.

Each layer becomes a block layer on those below. The same image and options give the same digests.
Layers that an earlier conversion put into the repository of DST are used again; it finds them by
tags that begin with "xylem-layer-". Temporary files need room for the uncompressed image.
Needs e2fsprogs (mke2fs and libext2fs), no root and no mounts.

Examples:
  xylem convert docker://registry.example/app:1.4 docker://registry.example/app:1.4-block
  xylem convert --platform linux/arm64 docker-archive:app.tar oci:./images:app-1.4
  xylem convert --compression zstd --block-size 16KiB oci:./app:1.4 docker://registry.example/app:z
  xylem convert --referrer docker://registry.example/app:1.4
  xylem convert dir:./rootfs oci:./images:app-1.4`;

/** `xylem convert`: makes block images from other sources. */
export function registerConvert(program: Command): void {
  addRegistryOptions(
    program
      .command('convert')
      .description('make a block image from an ordinary image, or from a directory')
      .argument('<src>', 'the image, or dir:PATH with the root file system of a container')
      .argument('[dst]', 'where to put the block image; replaces the tag'),
  )
    .option('--platform <os/arch>', 'of a multi-platform image, the one for this platform alone')
    .option('--compression <name>', 'lz4 or zstd', BLOCK_IMAGE_DEFAULTS.compression.algorithm)
    .option('--block-size <size>', 'bytes that are compressed together, 4KiB to 32KiB', '4KiB')
    .option('--size <size>', 'size of the block device; free blocks cost nothing', '64GiB')
    .option('--referrer', 'also list the block image among the referrers of the original')
    .option('--no-reuse', 'make every layer anew, and keep none for later conversions')
    .option('--owner <name>', 'written into the layers that are kept, for who removes them later')
    .option('--verify', 'then compare it with the original, as `xylem check` does; mounted, too')
    .option('--work-dir <dir>', 'folder for temporary files (default: TMPDIR, else /tmp)')
    .addOption(
      new Option('--progress <how>', 'to standard error: auto (on a terminal), or lines of json')
        .choices(['auto', 'json'])
        .default('auto'),
    )
    .addOption(jsonOption())
    .addHelpText('after', TEXT)
    .action((src: string, dst: string | undefined, options: Options) =>
      src.startsWith(DIRECTORY_PREFIX)
        ? fromDirectory(src, dst, options)
        : fromImage(src, dst, options),
    );
}

async function fromDirectory(
  src: string,
  dst: string | undefined,
  options: Options,
): Promise<void> {
  if (dst === undefined) throw invalid('DST', '', 'name where to put the image');
  const directory = src.slice(DIRECTORY_PREFIX.length);
  if (directory === '') throw invalid('SRC', src, 'it must be dir:PATH, for instance dir:./rootfs');
  if (options.verify === true) throw invalid('SRC', src, '--verify compares with an image only');
  const components = { codec: new NodeCodec(), hash: new NodeHash() };
  const { workDir: workDirectory } = options;
  const made = { ...blockOptions(options), workDirectory, onCleared: sayCleared };
  const image = await withPlaces(options, [dst], async (places) => {
    const target = openTarget(dst, places);
    return longWork(
      (work) => convertDirectory(components, directory, target, { ...made, ...work }),
      options.progress,
    );
  });
  const { layer, digest, deviceBytes } = image;
  const [blob, device] = [formatSizeBytes(layer.sizeBytes), formatSizeBytes(deviceBytes)];
  printFacts(
    options.json,
    { source: src, image: dst, ...image },
    `${dst} is ${digest}\nlayer ${layer.digest}: ${blob}, a device of ${device}`,
  );
}

async function fromImage(src: string, named: string | undefined, options: Options): Promise<void> {
  if (named === undefined && options.referrer !== true) {
    throw invalid('DST', '', 'name where to put the block image, or give --referrer');
  }
  const dst = named ?? src;
  const components = {
    codec: new NodeCodec(),
    hash: new NodeHash(),
    decompressor: new NodeDecompressor(),
  };
  const made = blockOptions(options);
  const platform = platformOf(options.platform);
  const result = await withPlaces(options, [src, dst], async (places) => {
    const source = openSource(src, places);
    const target = named === undefined ? openUntagged(src, places) : openTarget(named, places);
    const open = (tag: string) =>
      openSource(defined(withTag(dst, tag), 'archives have no cache'), places);
    const hasCache = options.reuse && withTag(dst, 'any') !== undefined;
    const { owner, progress } = options;
    const onKept = progress === 'json' ? tellKept : undefined;
    const cache = hasCache
      ? new LayerCache(components, { target, open }, { ...made, owner, onKept })
      : undefined;
    return longWork(
      (work) =>
        inWorkFolder(options.workDir, (workFolder) =>
          convertImage(
            components,
            { source, target, cache, workFolder },
            { ...made, ...work, platform, asReferrer: options.referrer === true, onWarning: warn },
          ),
        ),
      options.progress,
    );
  });
  const image = named ?? atDigest(src, result.digest);
  const verified =
    options.verify === true ? await runCheck(image, src, { ...options, mount: 'try' }) : undefined;
  const { text, ...checked } = verified ?? {};
  const facts = { source: src, image, ...result, ...(verified && { verified: checked }) };
  printFacts(options.json, facts, [textOf(image, result), text].filter(Boolean).join('\n'));
  if (verified?.isSound === false) process.exitCode = 1;
}

/** For the program that runs this one: what it cannot learn of a conversion that fails later. */
function tellKept(kept: KeptLayer): void {
  process.stderr.write(`${JSON.stringify({ kept })}\n`);
}

function blockOptions(options: Options): BlockImageOptions {
  const { compression, blockSize, size } = options;
  if (compression !== 'lz4' && compression !== 'zstd') {
    throw invalid('--compression', compression, 'it must be lz4 or zstd');
  }
  const blockSizeBytes = parseSizeBytes(blockSize) ?? 0;
  if (!BLOCK_BYTES.includes(blockSizeBytes)) {
    throw invalid('--block-size', blockSize, 'it must be 4KiB, 8KiB, 16KiB or 32KiB');
  }
  const deviceBytes = parseSizeBytes(size) ?? 0;
  const isWhole = deviceBytes % MIB === 0;
  if (deviceBytes < DEVICE_BYTES_MIN || deviceBytes > IMAGE_SIZE_BYTES_MAX || !isWhole) {
    throw invalid('--size', size, 'it must be whole MiB, 16MiB to 1TiB, for instance 64GiB');
  }
  return { deviceBytes, compression: { algorithm: compression, blockSizeBytes } };
}

function textOf(dst: string, { digest, platforms, leftOut }: ConversionResult): string {
  const lines = [`${dst} is ${digest}`];
  for (const { platform, layers } of platforms) {
    const name = platformName(platform);
    const sum = (of: (layer: (typeof layers)[number]) => number): string =>
      formatSizeBytes(layers.reduce((total, layer) => total + of(layer), 0));
    const reused = layers.filter(({ isReused }) => isReused).length;
    lines.push(
      `${name}: ${layers.length} layers, ${sum(({ sizeBytes }) => sizeBytes)} of blocks made of ` +
        `${sum(({ sourceBytes }) => sourceBytes)}${reused > 0 ? `, ${reused} of them reused` : ''}`,
    );
  }
  for (const { digest: entry, reason } of leftOut) lines.push(`left out ${entry}: ${reason}`);
  return lines.join('\n');
}

function invalid(what: string, value: string, rule: string): ConvertError {
  return new ConvertError(`${what} is ${JSON.stringify(value)}: ${rule}`, { code: 'argument' });
}
