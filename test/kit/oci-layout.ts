import { prepareLayout, putBlob, tagManifest } from '../../src/convert/oci-layout.ts';
import type { Digest } from '../../src/image/digest.ts';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { digestOf } from './registry-content.ts';

/** Puts an image of these layers into an OCI layout folder, and tags it. */
export async function putLayout(
  directory: string,
  tag: string,
  layers: readonly Uint8Array[],
): Promise<{ readonly digest: Digest; readonly mediaType: string }> {
  await prepareLayout(directory);
  const describe = async (bytes: Uint8Array, mediaType: string): Promise<object> => {
    const digest = digestOf(bytes);
    await putBlob(directory, digest, bytes);
    return { mediaType, digest, size: bytes.length };
  };
  const described: object[] = [];
  for (const layer of layers) {
    described.push(await describe(layer, 'application/vnd.oci.image.layer.v1.tar'));
  }
  const rootfs = { type: 'layers', diff_ids: layers.map(digestOf) };
  const config = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs }));
  const configType = 'application/vnd.oci.image.config.v1+json';
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      config: await describe(config, configType),
      layers: described,
    }),
  );
  const digest = digestOf(manifest);
  await putBlob(directory, digest, manifest);
  await tagManifest({ directory, tag }, { digest, size: manifest.length });
  return { digest, mediaType };
}
