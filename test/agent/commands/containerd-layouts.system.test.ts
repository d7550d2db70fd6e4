import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { carryOut } from '../../../src/agent/commands/containerd-files.ts';
import { DEFAULT_HOST, hostsFile } from '../../../src/agent/commands/containerd-folders.ts';
import { planMirror, planRemoval } from '../../../src/agent/commands/containerd-hosts.ts';
import { Containerd } from '../../kit/containerd.ts';
import { describeWith } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { lay, LAYOUTS, shapeOf } from '../kit/containerd-layouts.ts';
import { AWAY, LAYOUT_NEEDS, sharedRegistries } from '../kit/named-registry.ts';

describeWith('xylem configure-containerd, by what containerd then pulls', LAYOUT_NEEDS, () => {
  const ends: (() => void | Promise<void>)[] = [];
  const registryFor = sharedRegistries((end) => void ends.push(end));
  afterAll(async () => {
    for (const end of ends.reverse()) await end();
  });

  it.each(LAYOUTS)('changes nothing for the worse: $name', async (layout) => {
    const { proxy, registry, tls, enter, mirror } = await registryFor(layout.wants);
    const dir = join(tempFolder(), 'certs.d');
    mkdirSync(dir);
    lay(dir, layout.files({ registry, tls }));
    const before = shapeOf(dir);
    const containerd = await Containerd.start(dir, { enter });
    const reference = `${registry}/team/app:1`;
    const pull = async (): Promise<number> => {
      proxy.requests.length = 0;
      await containerd.pull(reference);
      await containerd.ctr(['images', 'rm', '--sync', reference]);
      return proxy.direct().filter(({ path }) => path.includes('/blobs/')).length;
    };
    expect(await pull(), 'before').toBeGreaterThan(0);
    const of = { dir, registry: layout.isDefault ? DEFAULT_HOST : registry };
    for (const url of [AWAY, mirror]) {
      carryOut(planMirror({ ...of, mirror: url }));
      expect(planMirror({ ...of, mirror: url }).action).toBe('none');
      const direct = await pull();
      // A client with a header, a certificate or another path does not show these to the agent,
      // which is refused: containerd goes on.
      const isRefused = layout.wants !== undefined;
      if (url === mirror && !isRefused) expect(direct, 'through the agent').toBe(0);
      else expect(direct, 'past the agent').toBeGreaterThan(0);
    }
    expectSameEyes(dir, of.registry);
    carryOut(planRemoval(of));
    expect(shapeOf(dir)).toEqual(before);
    expect(await pull(), 'afterwards').toBeGreaterThan(0);
  });

  /** A new file holds nothing for more eyes than the one that its contents are from. */
  function expectSameEyes(dir: string, registry: string): void {
    const from = statSync(join(dir, DEFAULT_HOST, 'hosts.toml'), { throwIfNoEntry: false });
    if (from === undefined) return;
    const { mode, uid } = statSync(hostsFile(dir, registry));
    expect([mode, uid]).toEqual([from.mode, from.uid]);
  }
});
