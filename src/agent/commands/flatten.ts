import type { Command } from 'commander';
import { findBlockImage } from '../../convert/block-image.ts';
import { ConvertError } from '../../convert/errors.ts';
import { flattenImage, flattenLayers, type FlattenedImage } from '../../convert/flatten.ts';
import { isPlace, openSource, PLACES } from '../../convert/places/open-place.ts';
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
  readonly out: string;
  readonly platform?: string;
  readonly workDir?: string;
  readonly json?: boolean;
}

const TEXT = `
An image: ${PLACES}

Examples:
  xylem flatten --out disk.img docker://registry.example/app:1.4-block
  xylem flatten --out disk.img layer0.commit layer1.commit
  mount -o loop,ro disk.img /mnt`;

/** `xylem flatten`: writes the block device of an image, or of a stack of layers, to a file. */
export function registerFlatten(program: Command): void {
  addRegistryOptions(
    program
      .command('flatten')
      .description('write the block device of an image, or of layers, as one sparse file')
      .requiredOption('--out <file>', 'file to write; replaces an existing file')
      .argument('<layer...>', 'an image, or files of block layers, bottom first'),
  )
    .option('--platform <os/arch>', 'of a multi-platform image (default: that of this host)')
    .option('--work-dir <dir>', 'folder for temporary files (default: TMPDIR, else /tmp)')
    .addOption(jsonOption())
    .addHelpText('after', TEXT)
    .action(async (layers: string[], options: Options) => {
      const [name = ''] = layers;
      const isImage = layers.some(isPlace);
      if (isImage && layers.length > 1) {
        const what = 'one image is flattened at a time, and without files of layers';
        throw new ConvertError(what, { code: 'argument' });
      }
      const flat = isImage ? await ofImage(name, options) : await ofLayers(layers, options);
      const facts = { file: options.out, ...flat };
      const [size, data] = [formatSizeBytes(flat.sizeBytes), formatSizeBytes(flat.writtenBytes)];
      printFacts(options.json, facts, `${options.out}: ${size}, of which ${data} is data`);
    });
}

function ofLayers(layers: readonly string[], { out }: Options): Promise<FlattenedImage> {
  return longWork((work) => flattenLayers({ codec: new NodeCodec() }, layers, out, work));
}

function ofImage(name: string, options: Options): Promise<FlattenedImage> {
  const components = { codec: new NodeCodec(), hash: new NodeHash() };
  const platform = platformOf(options.platform);
  return withPlaces(options, [name], (places) => {
    const source = openSource(name, places);
    return longWork((work) =>
      inWorkFolder(options.workDir, async (folder) => {
        const image = await findBlockImage(source, { ...work, platform });
        return flattenImage(components, image, { outPath: options.out, folder }, work);
      }),
    );
  });
}
