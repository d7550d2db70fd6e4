import type { Command } from 'commander';
import { withFile } from '../../convert/files.ts';
import type { ProgressOptions } from '../../convert/layer-blob.ts';
import { openLayer } from '../../image/layer.ts';
import { verifyLayer } from '../../image/verify.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { CodedError } from '../../util/errors.ts';
import { longWork } from './long-work.ts';
import { jsonOption, printFacts } from './output.ts';

/** What `verify` tells about one blob; `--json` prints a list of these. */
interface Verdict {
  readonly blob: string;
  readonly ok: boolean;
  readonly blockCount?: number;
  /** Whether checksums cover the data. */
  readonly isCovered?: boolean;
  readonly error?: string;
  readonly code?: string;
}

/** `xylem verify`: whether layer blobs are sound. */
export function registerVerify(program: Command): void {
  program
    .command('verify')
    .description('check layer blobs whole: every header, index, checksum and block')
    .argument('<blob...>', 'files of block layers')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExits with 1 when any blob is bad.\n\nExamples:\n  xylem verify layer.overlaybd.commit\n' +
        "  xylem verify --json blobs/* | jq '.[] | select(.ok | not)'",
    )
    .action(async (paths: string[], options: { json?: boolean }) => {
      const verdicts = await longWork(async (work) => {
        const found: Verdict[] = [];
        for (const path of paths) found.push(await verifyFile(path, work));
        return found;
      });
      printFacts(options.json, verdicts, verdicts.map(textOf).join('\n'));
      if (verdicts.some((verdict) => !verdict.ok)) process.exitCode = 1;
    });
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
    return { blob: path, ok: false, error: error.message, code: String(error.code) };
  }
}

function textOf(verdict: Verdict): string {
  if (!verdict.ok) return `bad  ${verdict.blob}: ${verdict.error}`;
  const covered =
    verdict.isCovered === true ? `${verdict.blockCount} blocks` : 'no checksums over its data';
  return `ok   ${verdict.blob}: ${covered}`;
}
