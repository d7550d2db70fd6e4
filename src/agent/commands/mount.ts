import { resolve } from 'node:path';
import type { Command } from 'commander';
import { formatSizeBytes } from '../../util/sizes.ts';
import { askAgent, type AdminPlace } from '../admin/admin-client.ts';
import { adminOption, jsonOption, printFacts, tokenOption } from './output.ts';

interface Options extends AdminPlace {
  readonly json?: boolean;
}

/** `xylem mount`: mounts an image on this host through its running agent. */
export function registerMount(program: Command): void {
  program
    .command('mount')
    .description('mount an image; the agent fetches its blocks as programs read them')
    .argument('<image>', 'docker://host[:port]/name:tag, or name@digest')
    .argument(
      '<dir>',
      'an empty directory below a folder of device.mountFolders, or one to be made there',
    )
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:' +
        '\n  xylem mount docker://registry.example/app:1.4 /run/xylem/mounts/app' +
        '\n  xylem mount --json docker://127.0.0.1:5000/app:1.4 /run/xylem/mounts/app ' +
        '| jq -r .device',
    )
    .action(async (image: string, dir: string, options: Options) => {
      const mounted = await askAgent(options, 'mount', { image, dir: resolve(dir) });
      const size = formatSizeBytes(mounted.sizeBytes);
      printFacts(
        options.json,
        mounted,
        `${mounted.image} is mounted at ${mounted.dir} (${mounted.device}, ${size})`,
      );
    });
}

/** `xylem unmount`: ends a mount. */
export function registerUnmount(program: Command): void {
  program
    .command('unmount')
    .description('unmount an image that `xylem mount` mounted; succeeds if none is mounted')
    .argument('<dir>', 'the directory')
    .addOption(adminOption())
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText('after', '\nExamples:\n  xylem unmount /run/xylem/mounts/app')
    .action(async (dir: string, options: Options) => {
      const answer = await askAgent(options, 'unmount', { dir: resolve(dir) });
      printFacts(options.json, answer, `${answer.dir} is unmounted`);
    });
}
