import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { freePorts } from '../../src/demo/free-ports.ts';
import { startAgent, waitReady } from '../../src/demo/processes.ts';
import { withEndings } from '../kit/endings.ts';
import { tempFolder } from '../kit/temp-folder.ts';

describe('waitReady()', () => {
  it('says at once that the agent ended, and why', () =>
    withEndings(async (atEnd) => {
      const dir = tempFolder(atEnd);
      const configFile = join(dir, 'agent.yaml');
      writeFileSync(configFile, 'role: captain\n');
      const [port] = await freePorts(1);
      const agent = startAgent({
        name: 'host-1',
        configFile,
        admin: `http://127.0.0.1:${port}`,
        socket: join(dir, 'socket'),
        logFile: join(dir, 'agent.log'),
      });
      atEnd(() => agent.stop());
      await expect(waitReady(agent)).rejects.toThrow(
        /^agent host-1 ended before it was ready: .*role/,
      );
    }));
});
