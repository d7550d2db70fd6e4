import type { Command } from 'commander';
import { checkImage, type PlatformCheck } from '../../convert/check-image.ts';
import type { Comparison } from '../../convert/check/compare-trees.ts';
import { openSource, PLACES } from '../../convert/places/open-place.ts';
import type { LayerCheck } from '../../convert/verify-image.ts';
import { platformName } from '../../registry/platform.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeDecompressor } from '../../runtime/node/decompressor.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { CodedError } from '../../util/errors.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import { addRegistryOptions, withPlaces, type RegistryOptions } from './image-places.ts';
import { inWorkFolder, longWork } from './long-work.ts';
import { imageMounter, requireMounts } from './mounted-image.ts';
import { jsonOption, printFacts } from './output.ts';

interface Options extends RegistryOptions {
  readonly mount?: boolean;
  readonly workDir?: string;
  readonly json?: boolean;
}

const TEXT = `
IMAGE and ORIGINAL: ${PLACES}

It verifies the manifests, each blob's digest, all blocks and the block digests. Then it reads the
file system and unpacks the original's layers in memory, as containerd does, and compares each file:
names, types, rights, owners, times, links, devices, extended attributes and content. Without
ORIGINAL it takes the subject that the image's manifest names, if it names one.
With --mount it also mounts the block image, and compares what the kernel shows; that takes root,
FUSE and loop devices. Exits with 1 when anything is bad or differs. Temporary files need room for
the block image.

Examples:
  xylem check docker://registry.example/app:1.4-block docker://registry.example/app:1.4
  xylem check oci:./images:app-1.4
  xylem check --json oci:./images:app-1.4 docker-archive:app.tar | jq '.platforms[].comparison'`;

/** `xylem check`: compares a block image with the image that it was made of. */
export function registerCheck(program: Command): void {
  addRegistryOptions(
    program
      .command('check')
      .description('check a block image, and compare its files with the original image')
      .argument('<image>', 'the block image')
      .argument('[original]', 'the ordinary image that it was made of'),
  )
    .option('--mount', 'also mount the block image, and compare what the kernel shows')
    .option('--work-dir <dir>', 'folder for temporary files (default: TMPDIR, else /tmp)')
    .addOption(jsonOption())
    .addHelpText('after', TEXT)
    .action(async (image: string, original: string | undefined, options: Options) => {
      const mount = options.mount === true ? 'must' : 'never';
      const { text, ...facts } = await runCheck(image, original, { ...options, mount });
      printFacts(options.json, { image, original, ...facts }, text);
      if (!facts.isSound) process.exitCode = 1;
    });
}

/** What a check found, as facts and as lines for people. */
interface CheckOutcome {
  readonly isSound: boolean;
  readonly platforms: readonly object[];
  readonly text: string;
}

/** Checks an image in its place, with the options of `xylem check`. */
export async function runCheck(
  image: string,
  original: string | undefined,
  options: RegistryOptions & {
    readonly workDir?: string | undefined;
    /** Whether the image is mounted, too: `try` tells where it cannot be. */
    readonly mount: 'never' | 'try' | 'must';
  },
): Promise<CheckOutcome> {
  const components = {
    codec: new NodeCodec(),
    hash: new NodeHash(),
    decompressor: new NodeDecompressor(),
  };
  if (options.mount === 'must') requireMounts();
  const named = original === undefined ? [image] : [image, original];
  const checks = await withPlaces(options, named, async (places) => {
    const opened = {
      image: openSource(image, places),
      original: original === undefined ? undefined : openSource(original, places),
    };
    return longWork((work) =>
      inWorkFolder(options.workDir, (workFolder) => {
        const must = options.mount === 'must';
        const mount =
          options.mount === 'never' ? undefined : imageMounter({ folder: workFolder, must });
        return checkImage(components, { ...opened, workFolder, mount }, work);
      }),
    );
  });
  const isSound = checks.every(isGood);
  const platforms = checks.map((each) => ({ ...each, layers: each.layers.map(factsOf) }));
  return { isSound, platforms, text: checks.map(textOf).join('\n') };
}

function isGood({ layers, comparison, mounted }: PlatformCheck): boolean {
  const areSound = layers.every(({ result }) => !(result instanceof CodedError));
  const seen = mounted !== undefined && 'differenceCount' in mounted ? mounted : undefined;
  return areSound && [comparison, seen].every((each) => (each?.differenceCount ?? 0) === 0);
}

function factsOf({ digest, result, hasBlockDigests }: LayerCheck) {
  const isBad = result instanceof CodedError;
  const found = isBad ? { error: result.message, code: result.code } : result;
  return { blob: digest, ok: !isBad, hasBlockDigests, ...found };
}

function textOf(check: PlatformCheck): string {
  const { platform, digest, layers, originalDigest, comparison, mounted } = check;
  const name = platformName(platform);
  const lines = [`${name} ${digest}`];
  for (const { digest: blob, result, hasBlockDigests } of layers) {
    const shipped = hasBlockDigests ? ', block digests as shipped' : '';
    if (result instanceof CodedError) lines.push(`  bad  ${blob}: ${result.message}`);
    else lines.push(`  ok   ${blob}: ${result.blockCount} blocks${shipped}`);
  }
  if (comparison !== undefined) {
    lines.push(...linesOf(comparison, String(originalDigest)));
    if (mounted === undefined) return lines.join('\n');
    const name = `${originalDigest}, mounted`;
    lines.push(
      ...('reason' in mounted ? [`  not mounted: ${mounted.reason}`] : linesOf(mounted, name)),
    );
  } else if (originalDigest === undefined) {
    lines.push('  not compared: name the original, the manifest names no subject');
  } else lines.push('  not compared: its layers are bad');
  return lines.join('\n');
}

function linesOf(
  { entryCount, contentBytes, differenceCount, differences }: Comparison,
  original: string,
): readonly string[] {
  const size = formatSizeBytes(contentBytes);
  const left = differenceCount - differences.length;
  return [
    differenceCount === 0
      ? `  same ${entryCount} files and directories, ${size} of content, as ${original}`
      : `  ${differenceCount} differences from ${original}:`,
    ...differences.map((line) => `    ${line}`),
    ...(left > 0 ? [`    and ${left} more`] : []),
  ];
}
