import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { flattenLayers } from '../../src/convert/flatten.ts';
import { codec } from '../kit/layers.ts';
import { tempFolder } from '../kit/temp-folder.ts';

describe('flattenLayers()', () => {
  it('leaves the earlier file when a layer is damaged', async () => {
    const folder = tempFolder();
    const out = join(folder, 'out');
    writeFileSync(out, 'before');
    writeFileSync(join(folder, 'zeros'), Buffer.alloc(5_000_000));
    const bad = flattenLayers({ codec }, [join(folder, 'zeros')], out);
    await expect(bad).rejects.toMatchObject({ code: 'not-a-layer' });
    expect(readFileSync(out, 'utf8')).toBe('before');
    expect(readdirSync(folder).filter((name) => name.includes('.part'))).toEqual([]);
  });
});
