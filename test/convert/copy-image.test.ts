import { join } from 'node:path';
import { expect, it } from 'vitest';
import { copyImage } from '../../src/convert/copy-image.ts';
import { putBlob } from '../../src/convert/oci-layout.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { digestOf } from '../kit/registry-content.ts';
import { bytesOf } from '../kit/tar-encoder.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { SourceImages } from './kit/source-images.ts';

it('an index of manifests that no memory should hold is refused', async () => {
  const images = new SourceImages();
  await images.put('plain', [{ members: [] }]);
  const entries: object[] = [];
  for (let i = 0; i < 17; i++) {
    const annotations = { filler: String(i).padEnd(4_000_000) };
    const manifest = bytesOf(JSON.stringify({ schemaVersion: 2, layers: [], annotations }));
    await putBlob(images.directory, digestOf(manifest), manifest);
    const [mediaType] = MANIFEST_MEDIA_TYPES;
    entries.push({ mediaType, digest: digestOf(manifest), size: manifest.length });
  }
  await images.putIndex('app', entries);
  const target = new LayoutPlace({ hash: new NodeHash() }, `oci:${join(tempFolder(), 'to')}:app`);
  const { signal } = new AbortController();
  const copied = copyImage(images.place('app'), target, { signal });
  await expect(copied).rejects.toThrow('more than 67108864 bytes of manifests');
});
