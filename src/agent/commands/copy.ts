import type { Command } from 'commander';
import { copyImage, type CopiedImage } from '../../convert/copy-image.ts';
import { ConvertError } from '../../convert/errors.ts';
import { openSource, openTarget, PLACES } from '../../convert/places/open-place.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import {
  addRegistryOptions,
  platformOf,
  withPlaces,
  type RegistryOptions,
} from './image-places.ts';
import { longWork } from './long-work.ts';
import { jsonOption, printFacts } from './output.ts';

interface Options extends RegistryOptions {
  readonly platform?: string;
  readonly referrers?: boolean;
  readonly json?: boolean;
}

const COPY_TEXT = `
SRC and DST: ${PLACES}
Manifests keep their bytes and their digests. Only an older archive of \`docker save\`, which has no
manifest, gets a new one. An upload that breaks goes on from where the registry has it.

Examples:
  xylem copy docker://registry.example/app:1.4 docker://mirror.example/app:1.4
  xylem copy --referrers docker://registry.example/app:1.4 oci:./images:app-1.4
  xylem copy --platform linux/arm64 docker://registry.example/app:1.4 docker-archive:app.tar`;

const PUSH_TEXT = `
The same as \`xylem copy\`, to a registry alone.

Examples:
  xylem push oci:./images:app-1.4 docker://registry.example/app:1.4
  xylem push --credentials ./config.json docker-archive:app.tar docker://registry.example/app:1.4`;

/** `xylem copy`: copies an image from one place to another. */
export function registerCopy(program: Command): void {
  register(program, 'copy', 'copy an image between registries, OCI layouts and archives')
    .argument('<src>', 'the image')
    .argument('<dst>', 'where to copy it; replaces the tag or the archive')
    .addHelpText('after', COPY_TEXT)
    .action(copy);
}

/** `xylem push`: copies an image to a registry. */
export function registerPush(program: Command): void {
  register(program, 'push', 'push an image to a registry')
    .argument('<src>', 'oci:DIR:tag, or any other image that `xylem copy` takes')
    .argument('<dst>', 'docker://HOST/NAME:TAG')
    .addHelpText('after', PUSH_TEXT)
    .action(async (src: string, dst: string, options: Options) => {
      if (dst.startsWith('docker://')) return copy(src, dst, options);
      const what = `${JSON.stringify(dst)} is no registry's: it must be docker://HOST/NAME:TAG`;
      throw new ConvertError(`${what}; \`xylem copy\` has other places`, { code: 'argument' });
    });
}

function register(program: Command, name: string, description: string): Command {
  const command = program.command(name).description(description);
  return addRegistryOptions(command)
    .option('--platform <os/arch>', 'of a multi-platform image, the one for this platform alone')
    .option('--referrers', 'also what refers to the image, such as signatures')
    .addOption(jsonOption());
}

async function copy(src: string, dst: string, options: Options): Promise<void> {
  if (options.referrers === true && dst.startsWith('docker-archive:')) {
    const what = 'an archive has no place for referrers';
    throw new ConvertError(`${what}: leave --referrers out, or copy to oci:DIR:tag`, {
      code: 'argument',
    });
  }
  const platform = platformOf(options.platform);
  const copied = await withPlaces(options, [src, dst], async (components) => {
    const [source, target] = [openSource(src, components), openTarget(dst, components)];
    const { referrers: withReferrers } = options;
    return longWork((work) => copyImage(source, target, { ...work, platform, withReferrers }));
  });
  printFacts(options.json, { source: src, image: dst, ...copied }, textOf(dst, copied));
}

function textOf(dst: string, copied: CopiedImage): string {
  const { digest, blobCount, blobBytes, writtenCount, writtenBytes, referrerCount } = copied;
  const there = blobCount - writtenCount;
  const parts = [
    `${writtenCount} of ${blobCount} blobs copied (${formatSizeBytes(writtenBytes)})`,
    ...(there > 0 ? [`${formatSizeBytes(blobBytes - writtenBytes)} was there or mounted`] : []),
    ...(referrerCount > 0 ? [`${referrerCount} referrers`] : []),
  ];
  return `${dst} is ${digest}\n${parts.join(', ')}`;
}
