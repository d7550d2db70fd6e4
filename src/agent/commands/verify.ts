import type { Command } from 'commander';
import { withFile } from '../../convert/files.ts';
import type { ProgressOptions } from '../../convert/layer-blob.ts';
import { parseLayoutTarget } from '../../convert/oci-layout.ts';
import { verifyImage } from '../../convert/verify-image.ts';
import { openLayer } from '../../image/layer.ts';
import { verifyLayer } from '../../image/verify.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { CodedError } from '../../util/errors.ts';
import { longWork } from './long-work.ts';
import { jsonOption, printFacts } from './output.ts';

/** What `verify` reports of one blob; `--json` prints a list of these. */
interface Verdict {
  readonly blob: string;
  readonly ok: boolean;
  readonly blockCount?: number;
  /** Whether checksums cover the data. */
  readonly isCovered?: boolean;
  /** For a layer of an image: whether the image ships the digests of its blocks. */
  readonly hasBlockDigests?: boolean;
  readonly error?: string;
  readonly code?: string;
}

/** Among the blobs of a layout are manifests and configs. */
const LAYOUT_BLOB = /blobs\/sha256\/[0-9a-f]{64}$/;

/** `xylem verify`: checks whether layer blobs are sound. */
export function registerVerify(program: Command): void {
  program
    .command('verify')
    .description('check whole layer blobs: every header, index, checksum and block')
    .argument('<blob...>', 'files of block layers, or oci:DIR:tag for the layers of an image')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nFor an image it also checks the digests of its blobs and the shipped block digests.\n' +
        'Exits with 1 when any blob is bad.\n\nExamples:\n  xylem verify layer.overlaybd.commit\n' +
        '  xylem verify oci:./images:app-1.4\n' +
        "  xylem verify --json oci:./images:app-1.4 | jq '.[] | select(.ok | not)'",
    )
    .action(async (paths: string[], options: { json?: boolean }) => {
      const verdicts = await longWork(async (work) => {
        const found: Verdict[] = [];
        for (const path of paths) {
          if (path.startsWith('oci:')) found.push(...(await verifyLayers(path, work)));
          else found.push(await verifyFile(path, work));
        }
        return found;
      });
      printFacts(options.json, verdicts, verdicts.map(textOf).join('\n'));
      if (verdicts.some((verdict) => !verdict.ok)) process.exitCode = 1;
    });
}

async function verifyLayers(
  image: string,
  work: Required<ProgressOptions>,
): Promise<readonly Verdict[]> {
  const components = { codec: new NodeCodec(), hash: new NodeHash() };
  const checks = await verifyImage(components, parseLayoutTarget(image), work);
  return checks.map(({ digest: blob, result, hasBlockDigests }) =>
    result instanceof CodedError
      ? { blob, ok: false, hasBlockDigests, error: result.message, code: result.code }
      : { blob, ok: true, hasBlockDigests, ...result },
  );
}

async function verifyFile(path: string, work: Required<ProgressOptions>): Promise<Verdict> {
  const codec = new NodeCodec();
  try {
    const result = await withFile(path, 'read', async (file) => {
      const layer = await openLayer(file, codec);
      return verifyLayer(layer, codec, {
        signal: work.signal,
        onProgress: (done, total) => work.onProgress(path, done, total),
      });
    });
    return { blob: path, ok: true, ...result };
  } catch (error) {
    work.signal.throwIfAborted();
    if (!(error instanceof CodedError)) throw error;
    const isOther = error.code === 'not-a-layer' && LAYOUT_BLOB.test(path);
    const hint = isOther ? '; of a layout, name its image as oci:DIR:tag' : '';
    return { blob: path, ok: false, error: error.message + hint, code: String(error.code) };
  }
}

function textOf(verdict: Verdict): string {
  if (!verdict.ok) return `bad  ${verdict.blob}: ${verdict.error}`;
  const covered =
    verdict.isCovered === true ? `${verdict.blockCount} blocks` : 'no checksums over its data';
  const digests = verdict.hasBlockDigests === true ? ', block digests as shipped' : '';
  return `ok   ${verdict.blob}: ${covered}${digests}`;
}
