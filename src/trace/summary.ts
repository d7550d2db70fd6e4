import type { Digest } from '../image/digest.ts';
import type { TraceAccess } from '../image/trace.ts';

/** What of a layer a trace names. */
export interface LayerSummary {
  readonly layer: number;
  /** Undefined for a trace without its image, or of another one. */
  readonly digest?: Digest;
  readonly accessCount: number;
  readonly readBytes: number;
  /** Number of its first access in the trace. */
  readonly first: number;
}

/** What a trace names. */
export interface TraceSummary {
  readonly accessCount: number;
  readonly readBytes: number;
  /** By layer, those without reads left out. */
  readonly layers: readonly LayerSummary[];
}

/** Sums up the reads of a trace; `digests` are those of the layers of its image, bottom first. */
export function summaryOf(
  accesses: readonly TraceAccess[],
  digests: readonly Digest[] = [],
): TraceSummary {
  const layers = new Map<number, { accessCount: number; readBytes: number; first: number }>();
  let readBytes = 0;
  for (const [i, { op, layer, length }] of accesses.entries()) {
    if (op !== 'read') continue;
    const sum = layers.get(layer) ?? { accessCount: 0, readBytes: 0, first: i };
    sum.accessCount++;
    sum.readBytes += length;
    readBytes += length;
    layers.set(layer, sum);
  }
  return {
    accessCount: accesses.length,
    readBytes,
    layers: [...layers]
      .sort(([a], [b]) => a - b)
      .map(([layer, sum]) => {
        const digest = digests[layer];
        return { layer, ...(digest !== undefined && { digest }), ...sum };
      }),
  };
}
