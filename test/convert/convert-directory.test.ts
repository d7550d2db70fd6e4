import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { convertDirectory } from '../../src/convert/convert-directory.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { codec } from '../kit/layers.ts';
import { tempFolder } from '../kit/temp-folder.ts';

describe('convertDirectory()', () => {
  it('rejects a source that is no directory', async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, 'empty'), '');
    const components = { codec, hash: new NodeHash() };
    const target = new LayoutPlace(components, `oci:${join(folder, 'layout')}:a`);
    const file = convertDirectory(components, join(folder, 'empty'), target);
    await expect(file).rejects.toThrow('is not a directory');
    const missing = convertDirectory(components, join(folder, 'missing'), target);
    await expect(missing).rejects.toThrow('no such file');
  });
});
