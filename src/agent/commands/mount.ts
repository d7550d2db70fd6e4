import { resolve } from 'node:path';
import type { Command } from 'commander';
import { formatSizeBytes } from '../../util/sizes.ts';
import { askAgent } from '../admin/admin-client.ts';
import type { MountedImage } from '../admin/services.ts';
import { adminOption, jsonOption, printFacts } from './output.ts';

/** Above the agent's own limit of 120 s, so that its reason arrives. */
const TIMEOUT_MS = 130_000;

const PATH = '/api/v1/mounts';

interface Options {
  readonly admin: string;
  readonly json?: boolean;
}

/** `xylem mount` and `xylem unmount`: images on this host, by way of its running agent. */
export function registerMount(program: Command): void {
  program
    .command('mount')
    .description('mount an image; its blocks arrive as they are touched')
    .argument('<image>', 'docker://host[:port]/name:tag')
    .argument('<dir>', 'an empty directory')
    .addOption(adminOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:\n  xylem mount docker://registry.example/app:1.4 /mnt/app\n  xylem mount --json docker://127.0.0.1:5000/app:1.4 ./app | jq -r .device',
    )
    .action(async (image: string, dir: string, options: Options) => {
      const answer = await askAgent(options.admin, {
        method: 'POST',
        path: PATH,
        body: { image, dir: resolve(dir) },
        timeoutMs: TIMEOUT_MS,
      });
      const mounted = answer as MountedImage;
      const size = formatSizeBytes(mounted.sizeBytes);
      printFacts(
        options.json,
        mounted,
        `${mounted.image} is at ${mounted.dir} (${mounted.device}, ${size})`,
      );
    });
  program
    .command('unmount')
    .description('unmount what `xylem mount` mounted; does nothing when nothing is there')
    .argument('<dir>', 'the directory')
    .addOption(adminOption())
    .addOption(jsonOption())
    .addHelpText('after', '\nExamples:\n  xylem unmount /mnt/app')
    .action(async (dir: string, options: Options) => {
      const body = { dir: resolve(dir) };
      const answer = await askAgent(options.admin, {
        method: 'DELETE',
        path: PATH,
        body,
        timeoutMs: TIMEOUT_MS,
      });
      printFacts(options.json, answer, `nothing is mounted at ${body.dir} any more`);
    });
}
