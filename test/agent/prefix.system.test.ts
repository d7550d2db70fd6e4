import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { AgentCluster } from '../../src/demo/agent-cluster.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { digestOf, putImage } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';

const run = promisify(execFile);

/** Body and header lines of curl's answer for a range. */
async function curl(url: string, range: string): Promise<{ head: string; body: Buffer }> {
  const { stdout } = await run('curl', ['-sS', '-i', '-r', range, url], {
    encoding: 'buffer',
    maxBuffer: 2 ** 24,
  });
  const end = stdout.indexOf('\r\n\r\n');
  return { head: stdout.subarray(0, end).toString(), body: stdout.subarray(end + 4) };
}

describeWith(
  'the overlaybd prefix of real agents',
  [needs.program('docker-registry'), needs.program('curl')],
  () => {
    let dir: string;
    let cluster: AgentCluster | undefined;
    beforeEach(async () => {
      dir = await mkdtemp(join(tmpdir(), 'xylem-test-'));
    });
    afterEach(async () => {
      await cluster?.stop();
      await rm(dir, { recursive: true, force: true });
    }, 60_000);

    it("gives exactly the registry's bytes, with Content-Range, from root and child", async () => {
      const registry = await startDockerRegistry();
      const layer = new Uint8Array(randomBytes(700_000));
      await putImage(`http://${registry}/v2/library/app`, 'latest', [layer]);
      cluster = new AgentCluster({ dir, roots: 1, children: 1, registry, devices: false });
      await cluster.start();
      const blob = `http://${registry}/v2/library/app/blobs/${digestOf(layer)}`;
      for (const host of cluster.hosts) {
        for (const [first, last] of [
          [0, 104],
          [262_000, 262_300],
          [100_000, 620_000],
          [699_999, 699_999],
        ] as const) {
          const direct = await curl(blob, `${first}-${last}`);
          const through = await curl(`${host.local}/${blob}`, `${first}-${last}`);
          expect(through.head).toMatch(/^HTTP\/1.1 206 /);
          expect(through.head.toLowerCase()).toContain(
            `content-range: bytes ${first}-${last}/${layer.length}`,
          );
          expect(through.body.equals(direct.body), `${host.name} ${first}-${last}`).toBe(true);
        }
        const beyond = await curl(`${host.local}/${blob}`, '700000-');
        expect(beyond.head).toMatch(/^HTTP\/1.1 416 /);
      }
    }, 60_000);
  },
);
