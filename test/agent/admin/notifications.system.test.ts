import { expect, it, onTestFinished } from 'vitest';
import { startDockerRegistry } from '../../kit/docker-registry.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { pushLayout } from '../../kit/skopeo.ts';
import { makeTarImage } from '../../kit/tar-image.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { adminServer, BEARER } from '../kit/admin.ts';
import { PreheatTwin } from '../kit/preheat-twin.ts';

const NEEDS = [needs.program('docker-registry'), needs.program('skopeo')];

describeWith('the notifications of a docker-registry', NEEDS, () => {
  it('are taken as they come, and start a preheat of what was pushed', async () => {
    const preheats = new PreheatTwin();
    const { server } = adminServer(tempFolder(), { preheats });
    onTestFinished(() => server.stop());
    await server.start();
    const { authorization } = BEARER;
    const notifies = { url: `${server.url}/registry/notifications`, authorization };
    const registry = await startDockerRegistry({ notifies });
    const image = await makeTarImage([1000]);
    await pushLayout(`${image.layout}:1`, `${registry}/team/app:1`);
    await expect.poll(() => preheats.specs.length, { timeout: 20_000 }).toBe(1);
    expect(preheats.specs[0]?.reference).toMatch(/^127\.0\.0\.1:\d+\/team\/app@sha256:/);
  }, 60_000);
});
