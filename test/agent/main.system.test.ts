import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AdminServer } from '../../src/agent/admin/admin-server.ts';
import { MountTwin, StatusTwin } from '../kit/twins.ts';
import { adminServer } from './kit/admin.ts';

const BIN = new URL('../../bin/xylem.js', import.meta.url).pathname;
const COMMANDS = [
  ...['agent', 'status', 'tree', 'mount', 'unmount'],
  ...['preheat', 'inspect', 'verify', 'flatten', 'convert', 'export', 'trace', 'copy', 'push'],
];
const NOTHING_THERE = 'http://127.0.0.1:1';

let server: AdminServer;
let folder: string;
let socket: string;
beforeAll(async () => {
  const status = new StatusTwin();
  status.reason = undefined;
  folder = mkdtempSync(join(tmpdir(), 'xylem-test-'));
  ({ server, socket } = adminServer(folder, { twin: status, mounts: new MountTwin() }));
  await server.start();
});
afterAll(async () => {
  await server.stop();
  rmSync(folder, { recursive: true });
});

interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs `xylem` as a process of its own. */
function xylem(args: readonly string[], variables: Record<string, string> = {}): Promise<Outcome> {
  const env = { PATH: process.env['PATH'] ?? '', ...variables };
  return new Promise((resolve) => {
    execFile(process.execPath, [BIN, ...args], { env, cwd: '/' }, (error, out, err) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, out, err });
    });
  });
}

describe('main() usage', () => {
  it('prints the version and the help', async () => {
    const version = await xylem(['--version']);
    expect(version).toEqual({ code: 0, out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/), err: '' });
    const help = await xylem(['--help']);
    expect(help.code).toBe(0);
    for (const command of COMMANDS) expect(help.out).toContain(`\n  ${command} `);
  });

  it.each(COMMANDS)('%s --help has examples', async (command) => {
    const help = await xylem([command, '--help']);
    expect(help.code).toBe(0);
    expect(help.out).toContain(`Examples:\n  xylem ${command}`);
  });

  it.each<[string[], string]>([
    [['statu'], "xylem: unknown command 'statu' (Did you mean status?)\nTry `xylem --help`.\n"],
    [
      ['status', '--jsn'],
      "xylem: unknown option '--jsn' (Did you mean --json?)\nTry `xylem status --help`.\n",
    ],
    [['mount', 'a'], "xylem: missing required argument 'dir'\nTry `xylem mount --help`.\n"],
    [['status', 'x'], 'xylem: too many arguments for'],
    [
      ['status', '--admin', 'x'],
      "xylem: option '--admin <address>' argument 'x' is invalid. It must be the path of a " +
        'socket, with a slash, or http://HOST:PORT.\n',
    ],
  ])('%j is refused with a line, a hint and code 2', async (args, text) => {
    const outcome = await xylem(args);
    expect(outcome).toMatchObject({ code: 2, out: '' });
    expect(outcome.err).toContain(text);
  });

  it('shows the help, with code 2, when no command is given', async () => {
    const outcome = await xylem([]);
    expect(outcome.code).toBe(2);
    expect(outcome.err).toContain('Usage: xylem');
  });

  it('is quiet when the reader of its output goes away', async () => {
    const outcome = await new Promise<string>((resolve) => {
      const command = `'${process.execPath}' '${BIN}' agent --help | true`;
      execFile('/bin/sh', ['-c', command], (_, __, err) => resolve(err));
    });
    expect(outcome).toBe('');
  });
});

describe('main() failures', () => {
  it('are one line, with a stack only for XYLEM_DEBUG', async () => {
    const plain = await xylem(['status', '--admin', NOTHING_THERE]);
    expect(plain).toMatchObject({ code: 1, out: '' });
    expect(plain.err).toMatch(
      /^xylem: cannot reach an agent at http:\/\/127.0.0.1:1: .*--admin\n$/,
    );
    const debug = await xylem(['status', '--admin', NOTHING_THERE], { XYLEM_DEBUG: '1' });
    expect(debug.err).toMatch(/AdminError: cannot reach[^]*\n {4}at /);
  });

  it('are an object on standard output with --json', async () => {
    const failed = await xylem(['status', '--json', '--admin', NOTHING_THERE]);
    expect(failed.code).toBe(1);
    expect(JSON.parse(failed.out)).toMatchObject({ code: 'admin-unreachable' });
    const usage = await xylem(['status', '--json', '--foo']);
    expect(usage.code).toBe(2);
    expect(JSON.parse(usage.out)).toEqual({ error: "unknown option '--foo'", code: 'usage' });
  });

  it('name a server that answers but is not an agent', async () => {
    const other = createServer((_, response) => response.end('<html>')).listen(0, '127.0.0.1');
    await once(other, 'listening');
    const outcome = await xylem([
      'tree',
      '--admin',
      `http://127.0.0.1:${(other.address() as AddressInfo).port}`,
    ]);
    expect(outcome.code).toBe(1);
    expect(outcome.err).toContain('is it the admin address of an agent');
    other.closeAllConnections();
    other.close();
  });
});

describe('xylem agent', () => {
  it('--print-config shows the merge of file, variables and flags', async () => {
    const outcome = await xylem(['agent', '--print-config', '--role', 'root', '--device.enabled'], {
      XYLEM_ZONE: 'z7',
    });
    expect(outcome.code).toBe(0);
    expect(outcome.out).toContain('role: root\n');
    expect(outcome.out).toContain('zone: z7\n');
    expect(outcome.out).toContain('enabled: true\n');
  });

  it('stops at a wrong value with one line', async () => {
    const outcome = await xylem(['agent', '--store.quota', 'much']);
    expect(outcome.code).toBe(1);
    expect(outcome.err).toBe(
      'xylem: configuration: store.quota is "much" (in the flag --store.quota), ' +
        'but must be a size from 64MiB to 1PiB, such as 20GiB or a number of bytes\n',
    );
  });
});

describe('xylem status, tree, mount and unmount', () => {
  it('print for people', async () => {
    const admin = ['--admin', socket];
    const status = await xylem(['status', ...admin]);
    expect(status.out).toMatch(/agent +xylem 0.0.1, child in zone z1\n/);
    expect(status.out).toContain('3MiB of 1GiB in /store: 12 blocks of 1 blobs');
    const tree = await xylem(['tree', ...admin]);
    expect(tree.out).toContain('stripe 0: below z1/b (10.0.0.2:1) < peer-r; children: peer-c');
    const mounted = await xylem(['mount', 'docker://r/app:1', 'mnt/a', ...admin]);
    expect(mounted).toEqual({
      code: 0,
      out: 'docker://r/app:1 is mounted at /mnt/a (/dev/loop3, 5MiB)\n',
      err: '',
    });
    const unmounted = await xylem(['unmount', '/mnt/a', ...admin]);
    expect(unmounted.out).toBe('/mnt/a is unmounted\n');
  });

  it('print one object for scripts', async () => {
    const admin = ['--json', '--admin', socket];
    for (const [args, part] of [
      [['status'], { role: 'child' }],
      [['tree'], { trees: [{ stripe: 0 }] }],
      [['mount', 'docker://r/app:1', '/mnt/b'], { dir: '/mnt/b' }],
      [['unmount', '/mnt/b'], { dir: '/mnt/b' }],
    ] as const) {
      const outcome = await xylem([...args, ...admin]);
      expect(outcome.code).toBe(0);
      expect(JSON.parse(outcome.out)).toMatchObject(part);
    }
  });

  it('ask over TCP with a token from a file of mode 0600 alone', async () => {
    const bare = await xylem(['status', '--admin', server.url]);
    expect(bare).toMatchObject({ code: 1, out: '' });
    expect(bare.err).toBe(
      'xylem: over TCP this needs the token of admin.readTokenFile or admin.tokenFile: ' +
        '`xylem ... --token-file FILE`; on the host of the agent ask over its socket ' +
        '(admin.socket)\n',
    );
    const file = join(folder, 'token');
    const args = ['status', '--admin', server.url, '--token-file', file];
    expect(await xylem(args)).toMatchObject({ code: 0, err: '' });
    chmodSync(file, 0o644);
    const open = await xylem(args);
    chmodSync(file, 0o600);
    expect(open.err).toBe(
      `xylem: the token file ${file} cannot be used: others can reach it; run \`chmod 600 ` +
        `${file}\`\n`,
    );
  });

  it('say what to do where no agent is, or where this user may not ask', async () => {
    const gone = await xylem(['status', '--admin', join(folder, 'gone.sock')]);
    expect(gone.err).toMatch(/^xylem: cannot reach an agent at .*gone.sock: ENOENT; start one/);
    if (process.getuid?.() !== 0) return;
    const args = ['--reuid', '65534', '--clear-groups', process.execPath, BIN, 'status'];
    const refused = await new Promise<string>((resolve) => {
      execFile('setpriv', [...args, '--admin', socket], { cwd: '/' }, (_, __, err) => resolve(err));
    });
    expect(refused).toContain(`this user may not ask the agent at ${socket} (EACCES): run the`);
    expect(refused).toContain('or let a group of this user in by admin.socketGroup');
  });

  it("repeat the agent's reason", async () => {
    const outcome = await xylem(['mount', 'oci:a:b', '/mnt/a', '--admin', socket]);
    expect(outcome.code).toBe(1);
    expect(outcome.err).toBe(
      'xylem: image is "oci:a:b", but must be docker://HOST[:PORT]/NAME:TAG\n',
    );
  });
});
