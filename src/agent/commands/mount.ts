import { resolve } from 'node:path';
import type { Command } from 'commander';
import { formatSizeBytes } from '../../util/sizes.ts';
import { askAgent, type AdminPlace } from '../admin/admin-client.ts';
import { AdminError } from '../admin/errors.ts';
import { DEVICE_ADMIN_SOCKET } from '../config/admin-socket.ts';
import { adminOption, jsonOption, printFacts, tokenOption } from './output.ts';

interface Options extends AdminPlace {
  readonly json?: boolean;
}

const ADMIN_WORDS = 'socket of the agent or of the device process';
const WHO_IS_ASKED =
  '\nWithout --admin the agent of this host is asked, and `xylem device` where the agent has\n' +
  'no devices of its own (device.enabled).\n';

/** `xylem mount`: mounts an image on this host through what serves its devices. */
export function registerMount(program: Command): void {
  program
    .command('mount')
    .description('mount an image; its blocks are fetched as programs read them')
    .argument('<image>', 'docker://host[:port]/name:tag, or name@digest')
    .argument(
      '<dir>',
      'an empty directory below a folder of device.mountFolders, or one to be made there',
    )
    .addOption(adminOption(ADMIN_WORDS))
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `${WHO_IS_ASKED}\nExamples:` +
        '\n  xylem mount docker://registry.example/app:1.4 /run/xylem/mounts/app' +
        '\n  xylem mount --json docker://127.0.0.1:5000/app:1.4 /run/xylem/mounts/app ' +
        '| jq -r .device',
    )
    .action(async (image: string, dir: string, options: Options, command: Command) => {
      const given = { image, dir: resolve(dir) };
      const mounted = await askForDevices(placesOf(options, command), (place) =>
        askAgent(place, 'mount', given),
      );
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
    .addOption(adminOption(ADMIN_WORDS))
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText('after', `${WHO_IS_ASKED}\nExamples:\n  xylem unmount /run/xylem/mounts/app`)
    .action(async (dir: string, options: Options, command: Command) => {
      const given = { dir: resolve(dir) };
      const answer = await askForDevices(placesOf(options, command), (place) =>
        askAgent(place, 'unmount', given),
      );
      printFacts(options.json, answer, `${answer.dir} is unmounted`);
    });
}

function placesOf(options: Options, command: Command): readonly [AdminPlace, ...AdminPlace[]] {
  const isGiven = command.getOptionValueSource('admin') !== 'default';
  return isGiven ? [options] : [options, { admin: DEVICE_ADMIN_SOCKET }];
}

/**
 * Asks the places in turn: the next one when nobody is at a place, or who is there has no devices.
 * Rejects with what the first one said when nobody has any.
 */
export async function askForDevices<T>(
  [place, ...others]: readonly [AdminPlace, ...AdminPlace[]],
  ask: (place: AdminPlace) => Promise<T>,
): Promise<T> {
  try {
    return await ask(place);
  } catch (error) {
    if (!hasNoDevices(error)) throw error;
    for (const other of others) {
      try {
        return await ask(other);
      } catch (next) {
        if (!hasNoDevices(next)) throw next;
      }
    }
    throw error;
  }
}

function hasNoDevices(error: unknown): boolean {
  if (!(error instanceof AdminError)) return false;
  const { detail } = error;
  if (detail.code === 'admin-refused') return detail.reason === 'no-devices';
  return detail.code === 'admin-unreachable';
}
