import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'smol-toml';
import { expect, it } from 'vitest';
import {
  planSnapshotter,
  planSnapshotterRemoval,
} from '../../../src/agent/commands/containerd-config.ts';
import { carryOut } from '../../../src/agent/commands/containerd-files.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const CRI = 'io.containerd.grpc.v1.cri';

describeWith('planSnapshotter(), by containerd', [needs.program('containerd')], () => {
  /** What containerd reads of a file. */
  function readByContainerd(file: string): Record<string, Record<string, unknown>> {
    const text = execFileSync('containerd', ['--config', file, 'config', 'dump'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return parse(text.toString()) as Record<string, Record<string, unknown>>;
  }

  it.each([
    ['none', (): undefined => undefined],
    ['its own defaults', () => execFileSync('containerd', ['config', 'default']).toString()],
    ['the first version', () => '[plugins.cri]\n  sandbox_image = "pause:1"\n'],
  ])('is understood in a file with %s', (_, made) => {
    const text = made();
    const folder = tempFolder();
    mkdirSync(join(folder, 'etc'));
    const file = join(folder, 'etc', 'config.toml');
    if (text !== undefined) writeFileSync(file, text);
    const before = text === undefined ? undefined : readByContainerd(file);
    const init = { file, socket: '/run/sock', snapshotsDir: '/var/s', forCri: true };
    carryOut(planSnapshotter(init));
    const read = readByContainerd(file);
    expect(read['proxy_plugins']).toMatchObject({
      xylem: { type: 'snapshot', address: '/run/sock' },
    });
    expect(read['plugins']?.[CRI] ?? read['plugins']?.['cri']).toMatchObject({
      containerd: {
        ...{ snapshotter: 'xylem', disable_snapshot_annotations: false },
        discard_unpacked_layers: true,
      },
    });
    carryOut(planSnapshotterRemoval({ file }));
    if (text === undefined) return;
    expect(readFileSync(file, 'utf8')).toBe(text);
    expect(readByContainerd(file)).toEqual(before);
  });
});
