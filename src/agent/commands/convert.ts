import type { Command } from 'commander';
import { convertDirectory } from '../../convert/convert-directory.ts';
import { ConvertError } from '../../convert/errors.ts';
import { parseLayoutTarget } from '../../convert/oci-layout.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import { longWork } from './long-work.ts';
import { jsonOption, printFacts } from './output.ts';

const DIRECTORY_PREFIX = 'dir:';

/** `xylem convert`: makes block images from other sources. */
export function registerConvert(program: Command): void {
  program
    .command('convert')
    .description("make a block image from a directory with a container's root file system")
    .argument('<src>', 'dir:PATH')
    .argument('<dst>', 'oci:DIR:tag, a tag in an OCI image layout; created if it does not exist')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nNeeds mke2fs (Debian package e2fsprogs). Run it as root to keep the owners of files.\n\n' +
        'Examples:\n  xylem convert dir:./rootfs oci:./images:app-1.4\n' +
        '  xylem push oci:./images:app-1.4 docker://registry.example/app:1.4',
    )
    .action(async (src: string, dst: string, options: { json?: boolean }) => {
      const directory = parseDirectory(src);
      const target = parseLayoutTarget(dst);
      const components = { codec: new NodeCodec(), hash: new NodeHash() };
      const image = await longWork((work) => convertDirectory(components, directory, target, work));
      const { layer, manifestDigest, virtualSizeBytes } = image;
      const [blob, device] = [formatSizeBytes(layer.sizeBytes), formatSizeBytes(virtualSizeBytes)];
      printFacts(
        options.json,
        { image: dst, ...image },
        `${dst} is ${manifestDigest}\nlayer ${layer.digest}: ${blob}, a device of ${device}`,
      );
    });
}

function parseDirectory(src: string): string {
  const directory = src.slice(DIRECTORY_PREFIX.length);
  if (src.startsWith(DIRECTORY_PREFIX) && directory !== '') return directory;
  throw new ConvertError(
    `${JSON.stringify(src)} cannot be converted: a source is dir:PATH, for instance dir:./rootfs ` +
      '(`umoci unpack --rootless` makes such a directory of an ordinary image)',
    { code: 'argument' },
  );
}
