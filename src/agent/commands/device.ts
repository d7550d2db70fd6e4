import { isDeepStrictEqual } from 'node:util';
import { type Command } from 'commander';
import { leaveAtExit } from '../../device/fuse/fuse-abort.ts';
import { KeptDescriptors } from '../../device/keeper/kept-descriptors.ts';
import { Keeper } from '../../device/keeper/keeper.ts';
import { dieWithParent, neverWaitForWriteback } from '../../device/linux.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { SystemClock } from '../../runtime/node/clock.ts';
import { collectGarbage } from '../../runtime/node/heap.ts';
import { countedLogger } from '../../runtime/counted-logger.ts';
import { jsonLogger } from '../../runtime/node/logger.ts';
import { formatSizeBytes } from '../../util/sizes.ts';
import { askAgent, type AdminPlace } from '../admin/admin-client.ts';
import type { ContainerDevice } from '../admin/answers.ts';
import { DEVICE_ADMIN_SOCKET } from '../config/admin-socket.ts';
import type { Config } from '../config/config-schema.ts';
import { loadConfig } from '../config/config.ts';
import { settingsOf } from '../device-process/configured-settings.ts';
import { DeviceParts } from '../device-process/device-parts.ts';
import type { DeviceProcess } from '../device-process/device-process.ts';
import type { DeviceSettings } from '../device-process/device-settings.ts';
import { earlyDevices, endNow, type EarlyDevices } from '../device-process/early-devices.ts';
import { runUntilSignal, type Service } from '../run.ts';
import { adminOption, jsonOption, printFacts, table, tokenOption } from './output.ts';
import { mountText } from './status.ts';

/** Shown of a container's key: as much as other tools show. */
const KEY_CHARACTERS = 13;

/** `xylem device`: runs the block devices of a host, and shows them. */
export function registerDevice(program: Command): void {
  const device = program
    .command('device')
    .description("run this host's block devices in the foreground, beside its agent")
    .option('--config <file>', "YAML file of the configuration: the agent's own")
    .addHelpText(
      'after',
      '\nA small process that keeps the devices starts the one that serves them, and starts it\n' +
        'again when it dies. SIGHUP replaces it with the version that is installed by then;\n' +
        'containers do not notice. SIGTERM unmounts all devices: end their containers first.\n' +
        '\nExamples:\n  xylem device --config /etc/xylem/agent.yaml\n  xylem device ls',
    )
    .action(async ({ config: file }: { readonly config?: string }) => {
      const config = loadConfig({
        ...(file !== undefined && { file }),
        variables: process.env,
      });
      process.exitCode = await run(config);
    });
  device
    .command('ls')
    .description('list the devices of containers, and what `xylem mount` has mounted')
    .addOption(adminOption('socket of the device process', DEVICE_ADMIN_SOCKET))
    .addOption(tokenOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:\n  xylem device ls\n' +
        "  xylem device ls --json | jq '.devices[] | {image, touched: .reads.touchedBytes}'",
    )
    .action(async (options: AdminPlace & { readonly json?: boolean }) => {
      const [{ devices }, { mounts }] = await Promise.all([
        askAgent(options, 'devices'),
        askAgent(options, 'mounts'),
      ]);
      const text = [listText(devices), ...mounts.map((mount) => `mount  ${mountText(mount)}`)];
      printFacts(options.json, { devices, mounts }, text.join('\n'));
    });
}

async function run(config: Config): Promise<number> {
  const early = earlyDevices();
  const { logger, clock } = early ?? newParts(config);
  let onYield = endNow;
  const keeper =
    early?.keeper ?? KeptDescriptors.ofThisProcess({ clock }, { onYield: () => onYield() });
  if (keeper === undefined) return keep({ logger, clock });
  dieWithParent();
  leaveAtExit();
  const settings = await settingsOf(config);
  await rememberSettings(settings, { early, keeper, logger });
  const { DeviceProcess } = await import('../device-process/device-process.ts');
  const parts = early?.parts ?? new DeviceParts({ logger, clock, keeper }, settings);
  const service = new DeviceProcess(config, { logger, clock, keeper, parts });
  onYield = () => {
    // The next process reads the configuration first: it may be another one now. An orderly end
    // would wait for the threads that read the kernel's requests.
    void Promise.all([service.yield(), keeper.remember('')]).then(endNow, endNow);
  };
  if (early !== undefined) early.onYield = onYield;
  collectGarbage();
  const exit = (code: number): void => process.exit(code);
  const events = process;
  events.on('uncaughtException', (error) => leaveInUse(service, { logger, error }));
  return runUntilSignal(orLeave(service, logger), { logger, clock, events, exit });
}

function newParts(config: Config): { readonly logger: Logger; readonly clock: Clock } {
  const clock = new SystemClock();
  const logger = countedLogger({ clock, logger: jsonLogger({ level: config.log.level }) });
  return { logger, clock };
}

/** Leaves the settings to the next process. With others than these it would have begun wrongly. */
async function rememberSettings(
  settings: DeviceSettings,
  parts: { early: EarlyDevices | undefined; keeper: KeptDescriptors; logger: Logger },
): Promise<void> {
  const { early, keeper, logger } = parts;
  await keeper.remember(JSON.stringify(settings));
  if (early === undefined || isDeepStrictEqual(settings, early.settings)) return;
  logger.info({}, 'the configuration has changed: starting again with it');
  endNow();
}

/** The service, with a start that ends no device that is in use when it fails. */
function orLeave(service: DeviceProcess, logger: Logger): Service {
  const start = async (): Promise<void> => {
    try {
      await service.start();
    } catch (error) {
      leaveInUse(service, { logger, error });
      throw error;
    }
  };
  return { start, stop: () => service.stop() };
}

/**
 * Ends this process at once when there are devices: a stop would take them from their containers,
 * while the next process goes on with them.
 */
function leaveInUse(
  service: DeviceProcess,
  { logger, error }: { readonly logger: Logger; readonly error: unknown },
): void {
  if (!service.hasDevices) return;
  logger.error({ error }, 'this process cannot go on: leaving its devices to the next one');
  endNow();
}

/** Runs this very command as a kept process. */
async function keep(components: ConstructorParameters<typeof Keeper>[0]): Promise<number> {
  if (!neverWaitForWriteback()) {
    components.logger.warn(
      {},
      'the kernel refuses PR_SET_IO_FLUSHER (CAP_SYS_RESOURCE): when memory is short, ' +
        'writes to writable devices may wait for themselves',
    );
  }
  const args = [...process.execArgv, ...process.argv.slice(1)];
  const keeper = new Keeper(components, { program: { path: process.execPath, args } });
  process.on('SIGTERM', () => keeper.stop());
  process.on('SIGINT', () => keeper.stop());
  process.on('SIGHUP', () => keeper.replace());
  return keeper.run();
}

function listText(devices: readonly ContainerDevice[]): string {
  if (devices.length === 0) return 'No container of this host has a device.';
  const refused = devices.flatMap(({ image, refused }) =>
    refused === undefined
      ? []
      : [`${image}: ${refused.count} unmounts were refused: ${refused.reason}`],
  );
  const list = table(
    [
      ...['IMAGE', 'DEVICE', 'WRITES', 'SIZE', 'TOUCHED', 'STORE', 'MEMORY', 'FETCHED'],
      ...['STALLED', 'USERS'],
    ],
    devices.map(({ image, device, writable, sizeBytes, reads, holders }) => [
      ...[image, device, writable ?? 'none'],
      ...[sizeBytes, reads.touchedBytes, reads.storeBytes, reads.memoryBytes].map(formatSizeBytes),
      formatSizeBytes(reads.fetchedBytes),
      stalledText(reads),
      usersText(holders),
    ]),
  );
  return refused.length === 0 ? list : [list, '', ...refused].join('\n');
}

/** The only one, as people know its container; else how many there are. */
function usersText(holders: readonly string[]): string {
  const [name, ...others] = holders;
  if (name === undefined || others.length > 0) return String(holders.length);
  const [namespace, , ...key] = name.split('/');
  return key.length === 0 ? name : `${namespace}/${key.join('/').slice(0, KEY_CHARACTERS)}`;
}

/** Reads that waited long, those that wait, and those that failed. */
function stalledText({ stalled, waiting, failed }: ContainerDevice['reads']): string {
  const now = waiting > 0 ? `, ${waiting} wait` : '';
  const bad = failed > 0 ? `, ${failed} failed` : '';
  return `${stalled}${now}${bad}`;
}
