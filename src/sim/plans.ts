import type { TraceAccess } from '../image/trace.ts';
import type { Codec } from '../runtime/codec.ts';
import { shippedOrders } from './shipped-image.ts';
import type { HostPlan } from './sim-host.ts';
import { blocksOf, makeTrace, traceOf, type Image } from './workload.ts';

/**
 * Number of kinds of containers in a run with faults, and the length of each kind's trace relative
 * to the default one.
 */
const FAULT_VARIANTS = 8;
const FAULT_SHARE = 1 / 8;

/** The parameters that the plans follow from; as in `WorldInit`. */
interface PlansInit {
  readonly workload: 'start' | 'full';
  readonly containersPerHost: number;
  readonly faults: readonly unknown[];
  readonly trace: 'shipped' | 'none';
  readonly accesses?: readonly TraceAccess[];
}

/**
 * Plans for the hosts, in turn. Without faults every host runs the same container at the same time.
 * With faults, half of the hosts learn the order on the fly and the containers differ, so that
 * first touches of blocks occur throughout the window.
 */
export function makePlans(
  components: { codec: Codec },
  image: Image,
  init: PlansInit,
): Promise<readonly HostPlan[]> {
  const { workload, containersPerHost, faults, accesses } = init;
  const isFull = workload === 'full';
  const variants = faults.length === 0 ? 1 : FAULT_VARIANTS;
  const share = faults.length === 0 ? 1 : FAULT_SHARE;
  const plans = Array.from({ length: variants }, async (_, variant): Promise<HostPlan> => {
    const trace =
      accesses === undefined
        ? makeTrace(image, { variant, share })
        : traceOf(image, accesses, variant);
    const ships = !isFull && init.trace === 'shipped' && variant % 2 === 0;
    return {
      trace,
      containers: isFull ? 0 : containersPerHost,
      shipped: ships ? await shippedOrders(components, image, trace) : undefined,
      blobs: image.blobs,
      preheat: isFull ? blocksOf(image) : undefined,
    };
  });
  return Promise.all(plans);
}
