import type { Command } from 'commander';
import { ConvertError } from '../../convert/errors.ts';
import { exportImage } from '../../convert/export-image.ts';
import { openSource, openTarget, PLACES } from '../../convert/places/open-place.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import {
  addRegistryOptions,
  platformOf,
  withPlaces,
  type RegistryOptions,
} from './image-places.ts';
import { inWorkFolder, longWork } from './long-work.ts';
import { jsonOption, printFacts } from './output.ts';

interface Options extends RegistryOptions {
  readonly platform?: string;
  readonly compression: string;
  readonly layers?: boolean;
  readonly workDir?: string;
  readonly json?: boolean;
}

const TEXT = `
IMAGE and DST: ${PLACES}

Reads the file system out of the block layers, without root and mounts. The image gets one layer
with all files; or, with --layers, as many layers as there are block layers, each with what its
block layer changes. The same block image gives the same digests.

Examples:
  xylem export docker://registry.example/app:1.4-block oci:./images:app-1.4
  xylem export --layers docker://registry.example/app:1.4-block docker://mirror.example/app:1.4
  xylem export --compression zstd oci:./images:block docker://registry.example/app:1.4-plain
  xylem export oci:./images:block docker-archive:app.tar:app:1.4   # docker load -i app.tar`;

/** `xylem export`: makes an ordinary image of a block image. */
export function registerExport(program: Command): void {
  addRegistryOptions(
    program
      .command('export')
      .description('make an ordinary image of a block image')
      .argument('<image>', 'the block image')
      .argument('<dst>', 'where to put the ordinary image; replaces the tag or the archive'),
  )
    .option('--compression <name>', 'gzip or zstd', 'gzip')
    .option('--layers', 'as many layers as the block image has, in place of one')
    .option('--platform <os/arch>', 'of a multi-platform image (default: that of this host)')
    .option('--work-dir <dir>', 'folder for temporary files (default: TMPDIR, else /tmp)')
    .addOption(jsonOption())
    .addHelpText('after', TEXT)
    .action(run);
}

async function run(image: string, dst: string, options: Options): Promise<void> {
  const { compression } = options;
  if (compression !== 'gzip' && compression !== 'zstd') {
    const what = `--compression is ${JSON.stringify(compression)}: it must be gzip or zstd`;
    throw new ConvertError(what, { code: 'argument' });
  }
  const platform = platformOf(options.platform);
  const components = { codec: new NodeCodec(), hash: new NodeHash() };
  const exported = await withPlaces(options, [image, dst], async (places) => {
    const [source, target] = [openSource(image, places), openTarget(dst, places)];
    return longWork((work) =>
      inWorkFolder(options.workDir, (workFolder) =>
        exportImage(
          components,
          { source, target, workFolder },
          { ...work, platform, compression, inLayers: options.layers === true },
        ),
      ),
    );
  });
  const { digest, layers, entryCount: count } = exported;
  const size = formatSizeBytes(layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0));
  const many = layers.length === 1 ? '' : ` in ${layers.length} layers`;
  const what = `${count} files and directories, ${size} of ${compression}${many}`;
  const text = `${dst} is ${digest}\n${what}`;
  printFacts(options.json, { source: image, image: dst, ...exported }, text);
}
