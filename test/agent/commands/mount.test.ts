import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { askAgent, type AdminPlace } from '../../../src/agent/admin/admin-client.ts';
import { askForDevices } from '../../../src/agent/commands/mount.ts';
import { DeviceError } from '../../../src/device/errors.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { MountTwin } from '../../kit/twins.ts';
import { adminServer } from '../kit/admin.ts';

const IMAGE = { image: 'docker://r.example/app:1', dir: '/mnt/app' };

async function serve(mounts?: MountTwin): Promise<AdminPlace> {
  const { server, socket } = adminServer(tempFolder(), mounts && { mounts });
  await server.start();
  onTestFinished(() => server.stop());
  return { admin: socket };
}

const mountAt = (...places: readonly [AdminPlace, ...AdminPlace[]]) =>
  askForDevices(places, (place) => askAgent(place, 'mount', IMAGE));

describe('askForDevices()', () => {
  const nobody = { admin: join('/nowhere', 'admin.sock') };

  it('asks the device process where the agent has no devices, or is away', async () => {
    const mounts = new MountTwin();
    const device = await serve(mounts);
    const agent = await serve();
    for (const first of [agent, nobody]) {
      expect(await mountAt(first, device)).toMatchObject(IMAGE);
    }
    expect(mounts.list()).toHaveLength(1);
  });

  it('stays with an agent that has devices, whatever it says', async () => {
    const [own, other] = [new MountTwin(), new MountTwin()];
    own.onMount = () =>
      Promise.reject(new DeviceError('in use', { code: 'busy', dir: '/mnt/app' }));
    const [agent, device] = [await serve(own), await serve(other)];
    await expect(mountAt(agent, device)).rejects.toMatchObject({ message: 'in use' });
    expect(other.list()).toEqual([]);
  });

  it('says what the agent said when nobody has devices', async () => {
    const agent = await serve();
    await expect(mountAt(agent, nobody)).rejects.toThrow('start `xylem device` on this host');
    await expect(mountAt(nobody, agent)).rejects.toThrow('cannot reach an agent at /nowhere');
  });
});
