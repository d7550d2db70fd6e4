import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { sampleBytes } from '../kit/layers.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';

describeWith('with skopeo', [needs.program('skopeo')], () => {
  test('EmbeddedRegistry is read by skopeo', async () => {
    const layoutDir = tempFolder();
    const image = await putLayout(layoutDir, '1', [sampleBytes(300_000, 3)]);
    const registry = new EmbeddedRegistry({ layoutDir, repository: 'team/app' });
    await registry.start();
    onTestFinished(() => registry.stop());
    const copy = tempFolder();
    const source = `docker://${registry.address}/team/app:1`;
    const copying = ['--insecure-policy', 'copy', '--preserve-digests', '--src-tls-verify=false'];
    await promisify(execFile)('skopeo', [...copying, source, `oci:${copy}:1`]);
    const index = JSON.parse(readFileSync(join(copy, 'index.json'), 'utf8')) as {
      manifests: { digest: string }[];
    };
    expect(index.manifests[0]?.digest).toBe(image.digest);
  });
});
