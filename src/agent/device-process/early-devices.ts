import { leaveAtExit } from '../../device/fuse/fuse-abort.ts';
import { KeptDescriptors } from '../../device/keeper/kept-descriptors.ts';
import { REMEMBERED_VARIABLE } from '../../device/keeper/messages.ts';
import { dieWithParent } from '../../device/linux.ts';
import type { Clock } from '../../runtime/clock.ts';
import { countedLogger } from '../../runtime/counted-logger.ts';
import type { Logger } from '../../runtime/logger.ts';
import { SystemClock } from '../../runtime/node/clock.ts';
import { jsonLogger } from '../../runtime/node/logger.ts';
import { DeviceParts } from './device-parts.ts';
import { parseSettings, type DeviceSettings } from './device-settings.ts';

/** The devices of an earlier process, which this one serves already. */
export interface EarlyDevices {
  readonly settings: DeviceSettings;
  readonly parts: DeviceParts;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly keeper: KeptDescriptors;
  /** Called when a new process is about to take over. */
  onYield: () => void;
}

let early: EarlyDevices | undefined;

/**
 * Goes on with the devices of the process that this one follows, before the rest of the program is
 * loaded: containers wait for it. With what that process knew; the configuration is read later.
 * Does nothing when no process has left any. Never rejects: what it cannot do the next process
 * tries again.
 */
export async function takeOverEarly(): Promise<void> {
  const settings = parseSettings(process.env[REMEMBERED_VARIABLE] ?? '');
  if (settings === undefined) return;
  const clock = new SystemClock();
  const onYield = (): void => early?.onYield();
  const keeper = KeptDescriptors.ofThisProcess({ clock }, { onYield });
  if (keeper === undefined) return;
  dieWithParent();
  leaveAtExit();
  const logger = countedLogger({ clock, logger: jsonLogger({ level: settings.logLevel }) });
  try {
    const parts = new DeviceParts({ logger, clock, keeper }, settings);
    early = { settings, parts, clock, logger, keeper, onYield: endNow };
    await parts.start();
    keeper.ready();
    // Loading the rest would keep the event loop from it.
    await parts.devices.reopened();
  } catch (error) {
    logger.error({ error }, 'cannot go on with the devices of an earlier process');
    endNow();
  }
}

/** What `takeOverEarly()` has taken over. */
export function earlyDevices(): EarlyDevices | undefined {
  return early;
}

/** The keeper has the devices: the next process goes on with what this one leaves unanswered. */
export function endNow(): void {
  process.kill(process.pid, 'SIGKILL');
}
