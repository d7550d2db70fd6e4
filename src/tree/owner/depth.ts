import { assert } from '../../util/assert.ts';

/**
 * Greatest depth of a tree of `memberCount` hosts without zones, the owner being at depth 0:
 * `ceil(log_f N) + 1`. Holds while the hosts have the capacity for `fanOut` children (at least 2).
 */
export function depthBound(memberCount: number, fanOut: number): number {
  assert(fanOut >= 2, `a fan-out of ${fanOut} makes chains, not trees`);
  if (memberCount <= 0) return 0;
  let depth = 1;
  for (let reach = 1; reach < memberCount; reach *= fanOut) depth++;
  return depth;
}

/**
 * Greatest depth of a zone's head with `zoneCount` zones beside the owner's. A zone takes `f - 1`
 * heads under its own head and one more a level lower, so `h(d) = (f - 1) h(d - 1) + h(d - 2)`
 * heads fit at depth d; the bound adds one level of slack.
 */
export function headDepthBound(zoneCount: number, fanOut: number): number {
  assert(fanOut >= 2, `a fan-out of ${fanOut} makes chains, not trees`);
  if (zoneCount <= 0) return 0;
  let before = 1;
  let here = fanOut - 1;
  let depth = 1;
  for (let fits = here; fits < zoneCount; fits += here) {
    [before, here] = [here, (fanOut - 1) * here + before];
    depth++;
  }
  return depth + 1;
}

/** Greatest depth with zones: the depth of a head plus the depth of the largest zone below it. */
export function depthBoundZoned(shape: {
  /** Zones beside the owner's. */
  readonly zoneCount: number;
  readonly zoneSizeMax: number;
  readonly fanOut: number;
}): number {
  return (
    headDepthBound(shape.zoneCount, shape.fanOut) + depthBound(shape.zoneSizeMax, shape.fanOut)
  );
}
