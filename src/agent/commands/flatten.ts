import type { Command } from 'commander';
import { flattenLayers } from '../../convert/flatten.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import { longWork } from './long-work.ts';
import { jsonOption, printFacts } from './output.ts';

interface Options {
  readonly out: string;
  readonly json?: boolean;
}

/** `xylem flatten`: writes the block device of a stack of layers to a file. */
export function registerFlatten(program: Command): void {
  program
    .command('flatten')
    .description('write the block device of a stack of layers as one sparse file')
    .requiredOption('--out <file>', 'file to write; replaces an existing file')
    .argument('<layer...>', 'files of block layers, bottom first')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:\n  xylem flatten --out disk.img layer0.commit layer1.commit\n' +
        '  mount -o loop,ro disk.img /mnt',
    )
    .action(async (layers: string[], options: Options) => {
      const flat = await longWork((work) =>
        flattenLayers({ codec: new NodeCodec() }, layers, options.out, work),
      );
      const facts = { file: options.out, ...flat };
      const [size, data] = [formatSizeBytes(flat.sizeBytes), formatSizeBytes(flat.writtenBytes)];
      printFacts(options.json, facts, `${options.out}: ${size}, of which ${data} is data`);
    });
}
