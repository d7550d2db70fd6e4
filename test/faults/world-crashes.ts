import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { planFaults, type FaultName } from '../../src/sim/faults.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { World } from '../../src/sim/world.ts';
import { WORLD_DEFAULTS, type WorldInit } from '../../src/sim/world-types.ts';
import type { FaultReport } from './fault-report.ts';

/** Three layers, one of them in stripes. */
const LAYERS_MB = [80, 12, 3];

const HOSTS = 20;
const ROOTS = 3;

/** Faults that accompany the crashes, in turn. */
const ALSO: readonly (readonly FaultName[])[] = [
  [],
  ['partition', 'loss'],
  ['corrupt', 'liar'],
  ['fulldisk', 'registry'],
  ['slow', 'slowlink', 'clock'],
];

/**
 * Runs the production reducers in a world of 23 hosts in which a third of the hosts and every root
 * crash, with further faults.
 */
export async function worldCrashes(seed: number, report: FaultReport): Promise<void> {
  const faults: FaultName[] = ['crash30', 'rootcrash', ...(ALSO[seed % ALSO.length] ?? [])];
  if (seed % 2 === 0) faults.push('allroots');
  const init: WorldInit = {
    ...WORLD_DEFAULTS,
    hosts: HOSTS,
    roots: ROOTS,
    containersPerHost: 2,
    layersMb: LAYERS_MB,
    seed,
    faults,
  };
  const world = await World.make({ codec: new NodeCodec() }, init);
  const result = world.run();
  for (const [what, count] of plannedFaults(init)) {
    report.add(what === 'crash' ? 'crashes' : 'injected', `${what} (simulated world)`, count);
  }
  report.add('checked', 'bytes touched in simulated worlds', result.touchedBytes);
  report.add('checked', 'containers started in simulated worlds', result.coldMs.count);
  for (const { atMs, rule, text } of world.checker.violations) {
    const kind = { 'failed-read': 'failed read', 'wrong-bytes': 'wrong bytes' } as const;
    report.violate(
      kind[rule as keyof typeof kind] ?? 'broken promise',
      `${rule}: ${text} at ${atMs.toFixed(0)} ms of world ${seed}; ` +
        `again: --only world --seed ${seed} --count 1`,
    );
  }
}

/** Number of each fault in the world's plan for its seed: the same draw as in `World`. */
function plannedFaults({ seed, hosts, roots, faults }: WorldInit): Map<string, number> {
  const random = new SeededRandom(`world ${seed}`).split('faults');
  const numbers = Array.from({ length: hosts + roots }, (_, number) => number);
  const plan = planFaults(random, faults, {
    workers: numbers.slice(0, hosts),
    roots: numbers.slice(hosts),
  });
  const counts = new Map<string, number>();
  for (const { act } of plan) counts.set(act.type, (counts.get(act.type) ?? 0) + 1);
  return counts;
}
