import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { AdminToken } from '../../../src/agent/admin/admin-token.ts';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import type { Services } from '../../../src/agent/admin/services.ts';
import type { Clock } from '../../../src/runtime/clock.ts';
import { silentLogger, type Logger } from '../../../src/runtime/logger.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { StatusTwin } from '../../kit/twins.ts';

/** What opens every route over TCP. */
export const TOKEN = '0123456789abcdef0123456789abcdef';
export const BEARER = { authorization: `Bearer ${TOKEN}` };

interface Parts {
  /** The agent that it tells of. */
  readonly twin: StatusTwin;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * An admin endpoint before twins, on a free port, with `TOKEN`, and with a socket in the folder.
 */
export function adminServer(
  folder: string,
  parts: Partial<Services & Parts> = {},
  port = 0,
): { readonly server: AdminServer; readonly socket: string } {
  const file = join(folder, 'token');
  writeFileSync(file, TOKEN, { mode: 0o600 });
  const socket = join(folder, 'admin', 'admin.sock');
  const { logger = silentLogger, twin = new StatusTwin(), ...others } = parts;
  const server = new AdminServer(
    {
      status: twin,
      agent: twin,
      clock: new ManualClock(),
      ...others,
      logger,
      metrics: new PromMetrics({ processMetrics: false }),
      tokens: { change: new AdminToken({ logger }, { file }) },
    },
    {
      listen: { host: '127.0.0.1', port },
      listenKey: 'admin.listen',
      socket: { path: socket, key: 'admin.socket' },
    },
  );
  return { server, socket };
}
