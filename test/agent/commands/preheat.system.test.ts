import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { adminServer } from '../kit/admin.ts';
import { DONE, FAILED, PREHEAT_ID as ID, PreheatTwin } from '../kit/preheat-twin.ts';

const BIN = new URL('../../../bin/xylem.js', import.meta.url).pathname;
const IMAGE = 'docker://r.example/team/app:1';

let twin: PreheatTwin;
let server: AdminServer;
let socket: string;

beforeEach(async () => {
  twin = new PreheatTwin();
  ({ server, socket } = adminServer(tempFolder(), { preheats: twin }));
  await server.start();
});
afterEach(() => server.stop());

describe('xylem preheat', () => {
  function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const all = [BIN, 'preheat', '--admin', socket, ...args];
    return new Promise((resolve) => {
      execFile(process.execPath, all, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
      );
    });
  }

  it('waits for the end, and reports the outcome', async () => {
    twin.changes = DONE;
    const { code, stdout } = await run('--zone', 'z1', '--count', '2', '--trace', '--pin', IMAGE);
    expect({ code, stdout }).toEqual({
      code: 0,
      stdout: `${IMAGE} is on 2 hosts: 5B each, 2.5 s\n`,
    });
    expect(twin.specs[0]).toMatchObject({ part: 'trace', pin: true, zone: 'z1', count: 2 });
    const json = await run('--json', IMAGE);
    expect(JSON.parse(json.stdout)).toMatchObject({ id: ID, state: 'done' });
  }, 90_000);

  it("fails with the hosts' reasons, and exits at once with --no-wait", async () => {
    twin.changes = FAILED;
    const failed = await run(IMAGE);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain('some hosts failed (1 of 2: b: the host no longer answers)');
    twin.changes = {};
    const left = await run('--no-wait', IMAGE);
    expect(left).toMatchObject({ code: 0, stdout: expect.stringContaining(ID) as string });
    const wrong = await run('--count', '0', IMAGE);
    expect(wrong).toMatchObject({ code: 2 });
  }, 90_000);

  it('cancels on SIGINT', async () => {
    const child = spawn(process.execPath, [BIN, 'preheat', '--admin', socket, IMAGE]);
    let stderr = '';
    child.stderr.on('data', (piece) => (stderr += String(piece)));
    const exited = once(child, 'exit');
    await expect.poll(() => twin.specs.length, { timeout: 60_000 }).toBe(1);
    // The command handles signals before its first status request.
    const get = twin.get.bind(twin);
    const looked = Promise.withResolvers<void>();
    twin.get = (id) => {
      looked.resolve();
      return get(id);
    };
    await looked.promise;
    child.kill('SIGINT');
    expect((await exited)[0]).toBe(130);
    expect(twin.cancelled).toEqual([ID]);
    expect(stderr).toContain('was cancelled');
  }, 90_000);
});
