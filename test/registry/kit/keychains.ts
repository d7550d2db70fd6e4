import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { Keychain } from '../../../src/registry/credentials/keychain.ts';
import type { Logger } from '../../../src/runtime/logger.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import type { ManualClock } from '../../kit/manual-clock.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

type Init = ConstructorParameters<typeof Keychain>[1];

/** A keychain that ends with the running test, and whose log lines are kept. */
export function openKeychain(
  init: Partial<Init>,
  clock: ManualClock | SystemClock = new SystemClock(),
) {
  const lines: string[] = [];
  const note = (fields: object, message: string): void =>
    void lines.push(`${message} ${JSON.stringify(fields)}`);
  const logger: Logger = { debug: note, info: note, warn: note, error: note, child: () => logger };
  const keychain = new Keychain({ clock, logger }, { dockerConfigs: [], pullSecrets: [], ...init });
  onTestFinished(() => keychain.close());
  return { keychain, lines };
}

/** A Docker config file with this content. */
export function fileOf(content: unknown, name = 'config.json'): string {
  const file = join(tempFolder(), name);
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  return file;
}

/** An entry of `auths`. */
export function auth(user: string, password = 'secret'): object {
  return { auth: Buffer.from(`${user}:${password}`).toString('base64') };
}

/** The credentials that `auth()` stands for. */
export const as = (username: string) => ({ username, password: 'secret' });
