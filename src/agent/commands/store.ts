import { InvalidArgumentError, type Command } from 'commander';
import { formatSizeBytes, parseSizeBytes } from '../../util/sizes.ts';
import { askAgent, type AdminPlace } from '../admin/admin-client.ts';
import type { BlobUsage } from '../admin/answers.ts';
import { adminOption, jsonOption, printFacts, table, tokenOption } from './output.ts';

const WHAT = 'sha256:... of a blob, or docker://host[:port]/name:tag for all layers of an image';

interface Options extends AdminPlace {
  readonly json?: boolean;
}

/** `xylem store`: shows and changes the contents of a running agent's store. */
export function registerStore(program: Command): void {
  const store = program.command('store').description("show and change an agent's blocks on disk");
  addLs(store);
  addPin(store, 'pin', 'pin a blob or an image: the store evicts it last');
  addPin(store, 'unpin', 'unpin a blob or an image');
  addGc(store);
}

function addLs(store: Command): void {
  store
    .command('ls')
    .description('list the blobs, most recently used first')
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:\n  xylem store ls\n' +
        "  xylem store ls --json | jq '.blobs[] | select(.pinned).digest'",
    )
    .action(async (options: Options) => {
      const answer = await askAgent(options, 'storeUsage');
      printFacts(options.json, answer, listText(answer.blobs));
    });
}

function addPin(store: Command, name: 'pin' | 'unpin', description: string): void {
  store
    .command(name)
    .description(description)
    .argument('<what>', WHAT)
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `\nExamples:\n  xylem store ${name} docker://registry.example/app:1.4\n` +
        `  xylem store ${name} sha256:0123...`,
    )
    .action(async (what: string, options: Options) => {
      const answer = await askAgent(options, name, { what });
      const verb = name === 'pin' ? 'pinned' : 'no longer pinned';
      const lines = answer.digests.map((digest) => `${digest} ${verb}`);
      printFacts(options.json, answer, lines.join('\n'));
    });
}

function addGc(store: Command): void {
  store
    .command('gc')
    .description('evict blocks that are not mounted, pinned or in use, least recently used first')
    .option(
      '--to <size>',
      'evict until the store holds at most this much (default: 90 % of the quota)',
      sizeOf,
    )
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:\n  xylem store gc\n  xylem store gc --to 10GiB\n  xylem store gc --to 0',
    )
    .action(async (options: Options & { readonly to?: string }) => {
      const { to, json } = options;
      const freed = await askAgent(options, 'gc', to === undefined ? {} : { to });
      const size = formatSizeBytes(freed.sizeBytes);
      printFacts(json, freed, `freed ${size} in ${freed.blockCount} blocks`);
    });
}

function sizeOf(text: string): string {
  if (parseSizeBytes(text) !== undefined) return text;
  throw new InvalidArgumentError('It must be a size such as 10GiB, or a number of bytes.');
}

function listText(blobs: readonly BlobUsage[]): string {
  if (blobs.length === 0) return 'The store is empty.';
  const header = ['BLOB', 'HELD', 'OF', 'BLOCKS', 'KEPT AS', 'LAST USE'];
  const rows = blobs.map((blob) => [
    blob.digest,
    formatSizeBytes(blob.heldBytes),
    blob.sizeBytes === undefined ? '-' : formatSizeBytes(blob.sizeBytes),
    String(blob.blockCount),
    blob.pinned && blob.mounted ? 'pinned, mounted' : blob.keep,
    blob.lastUseMs === undefined
      ? 'never'
      : new Date(blob.lastUseMs).toISOString().slice(0, 19) + 'Z',
  ]);
  return table(header, rows);
}
