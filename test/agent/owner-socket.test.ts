import { chmodSync, existsSync, mkdirSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { createServer as createNetServer } from 'node:net';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { OwnerSocket, type SocketPlace } from '../../src/agent/owner-socket.ts';
import { tempFolder } from '../kit/temp-folder.ts';

/** A server on the socket, or the reason why there is none. It ends with the running test. */
async function listen(
  place: Omit<SocketPlace, 'key'>,
): Promise<{ server: Server; close(): Promise<void> }> {
  const socket = new OwnerSocket({ key: 'admin.socket', ...place });
  const server = createServer((_, response) => response.end());
  const close = async (): Promise<void> => {
    if (server.listening) {
      server.close();
      await once(server, 'close');
    }
    await socket.close();
  };
  onTestFinished(close);
  await socket.open(server);
  return { server, close };
}

const newPath = (): string => join(tempFolder(), 'run', 'admin', 'admin.sock');
const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8);

describe('OwnerSocket', () => {
  it('is closed to other users, and gone after a clean stop', async () => {
    const path = newPath();
    const { close } = await listen({ path });
    expect([modeOf(dirname(path)), modeOf(path)]).toEqual(['700', '600']);
    await close();
    expect(existsSync(path)).toBe(false);
    await listen({ path });
  });

  it.skipIf(process.getuid?.() !== 0)(
    'is open to the group that is named, and closed again without',
    async () => {
      const path = newPath();
      const { close } = await listen({ path, group: 4321 });
      expect([modeOf(dirname(path)), modeOf(path)]).toEqual(['750', '660']);
      expect([statSync(dirname(path)).gid, statSync(path).gid]).toEqual([4321, 4321]);
      await close();
      await listen({ path });
      expect([modeOf(dirname(path)), modeOf(path)]).toEqual(['700', '600']);
    },
  );

  it('of a living agent is not taken away by a second one', async () => {
    const path = newPath();
    const first = await listen({ path });
    await expect(listen({ path })).rejects.toThrow(
      /cannot listen on .*\(admin.socket\): .* is in use by another process/,
    );
    expect(first.server.listening).toBe(true);
    expect(existsSync(path)).toBe(true);
  });

  it('that a dead agent left is replaced', async () => {
    const path = newPath();
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    // Closing removes the name that it was made with.
    const dead = createNetServer().listen(`${path}.dead`);
    await once(dead, 'listening');
    renameSync(`${path}.dead`, path);
    dead.close();
    await once(dead, 'close');
    expect(statSync(path).isSocket()).toBe(true);
    const { server } = await listen({ path });
    expect(server.listening).toBe(true);
  });

  it('is made in no folder that others use, and in the place of no file', async () => {
    const path = newPath();
    mkdirSync(dirname(path), { recursive: true });
    chmodSync(dirname(path), 0o755);
    await expect(listen({ path })).rejects.toThrow(/is open to others or not the agent's own/);
    expect(modeOf(dirname(path))).toBe('755');
    chmodSync(dirname(path), 0o700);
    writeFileSync(path, 'precious');
    await expect(listen({ path })).rejects.toThrow(/something else than a socket is there/);
    expect(statSync(path).isFile()).toBe(true);
  });

  it('beside another socket of its agent has that folder as it is, and mode 0600', async () => {
    const path = newPath();
    await listen({ path });
    const beside = join(dirname(path), 'agent.sock');
    await expect(listen({ path: beside })).rejects.toThrow(/is in use by another process/);
    chmodSync(dirname(path), 0o750);
    const { close } = await listen({ path: beside, isFolderTaken: true });
    expect([modeOf(dirname(path)), modeOf(beside)]).toEqual(['750', '600']);
    await close();
    expect([existsSync(beside), existsSync(path)]).toEqual([false, true]);
  });
});
