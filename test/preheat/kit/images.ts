import { createHash } from 'node:crypto';
import { OVERLAYBD_ANNOTATION, type Descriptor } from '../../../src/image/manifest.ts';
import { parseDigest, type Digest } from '../../../src/image/digest.ts';
import { tarOf } from '../../../src/image/tar.ts';
import { encodeTrace, type TraceAccess } from '../../../src/image/trace.ts';
import type { PreheatOrder, PreheatPart } from '../../../src/preheat/messages.ts';
import { defined } from '../../../src/util/assert.ts';
import { codec } from '../../kit/layers.ts';
import { ORIGIN, type CountingOrigin } from '../../kit/engine-cluster.ts';

export function digestOf(bytes: Uint8Array): Digest {
  const hex = createHash('sha256').update(bytes).digest('hex');
  return defined(parseDigest(`sha256:${hex}`), 'a sha256');
}

/**
 * Puts an image of these layers, and of an acceleration layer when a trace is given, into the
 * registry, and gives the order for it.
 */
export function orderOf(
  origin: CountingOrigin,
  layers: readonly Uint8Array[],
  init: { trace?: readonly TraceAccess[]; part?: PreheatPart; pin?: boolean } = {},
): PreheatOrder {
  const describe = (bytes: Uint8Array, annotations = {}): Descriptor => {
    const digest = digestOf(bytes);
    origin.blobs.set(digest, bytes);
    return { mediaType: 'm', digest, size: bytes.length, annotations };
  };
  const described = layers.map((bytes) => describe(bytes));
  if (init.trace !== undefined) {
    const tar = tarOf([{ name: 'trace', bytes: encodeTrace(init.trace, codec) }]).bytes;
    described.push(describe(tar, { [`${OVERLAYBD_ANNOTATION}acceleration-layer`]: 'yes' }));
  }
  const config = describe(new TextEncoder().encode('{}'));
  const json = { schemaVersion: 2, mediaType: 'm', config, layers: described };
  const manifest = new TextEncoder().encode(JSON.stringify(json));
  return {
    reference: 'registry.test/app:1',
    digest: digestOf(manifest),
    manifest,
    origin: ORIGIN,
    part: init.part ?? 'image',
    pin: init.pin ?? false,
  };
}

export function sizeOf(order: PreheatOrder): number {
  const { config, layers } = JSON.parse(new TextDecoder().decode(order.manifest)) as {
    config: { size: number };
    layers: readonly { size: number }[];
  };
  return [config, ...layers].reduce((sum, { size }) => sum + size, 0);
}
