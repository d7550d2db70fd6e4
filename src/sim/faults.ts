import type { SeededRandom } from './seeded-random.ts';

/** Names of the faults that `--faults` takes, with the effect of each. */
export const FAULTS = {
  crash30: '30 % of the hosts crash at random times; nine of ten come back with their disks',
  allroots: 'every root crashes at the same time; they come back one after the other',
  roothang: 'one root hangs (SIGSTOP) for some seconds',
  rootcrash: 'one root crashes and comes back',
  partition: 'the hosts are cut in two for some seconds, the registry on one side',
  slow: 'a tenth of the hosts hang (SIGSTOP) for some seconds',
  slowlink: 'the NICs of a tenth of the hosts run at a twentieth of their rate',
  loss: 'connections break, one in a hundred at a time',
  corrupt: 'a twentieth of the hosts send wrong bytes',
  liar: 'a twentieth of the hosts never answer, or say "not found"',
  registry: 'the registry answers 429 and 5xx, is slow, ends credentials',
  fulldisk: 'the disks of a third of the hosts are full',
  slowdisk:
    'the disks of a third of the hosts, and of a root, run at a two-hundredth of their rate',
  clock: "the hosts' clocks jump forward by up to 5 s",
} as const;

/** Name of a fault on the command line. */
export type FaultName = keyof typeof FAULTS;

/** Faults under which hosts may fail to reach any root for a while. */
export const ROOTS_AWAY: ReadonlySet<FaultName> = new Set([
  'allroots',
  'rootcrash',
  'roothang',
  'partition',
  'loss',
]);

/**
 * Faults happen in this window; then everything heals. Reads in a cold run go on for about as long.
 */
export const FAULT_WINDOW_MS = 8_000;

/** One fault in the world, from its begin to its end. */
export interface Fault {
  readonly atMs: number;
  readonly endMs: number;
  readonly act: FaultAct;
}

/** The effect of a fault on the world. */
export type FaultAct =
  | { readonly type: 'crash'; readonly host: number; readonly returns: boolean }
  | { readonly type: 'partition'; readonly away: readonly number[]; readonly registryAway: boolean }
  | { readonly type: 'hang'; readonly host: number }
  | { readonly type: 'slow-link'; readonly host: number }
  | { readonly type: 'loss' }
  | { readonly type: 'lie'; readonly host: number; readonly lie: 'corrupt' | 'not-found' | 'mute' }
  | { readonly type: 'registry'; readonly mode: 'throttled' | 'failing' | 'slow' | 'expired' }
  | { readonly type: 'full-disk'; readonly host: number }
  | { readonly type: 'slow-disk'; readonly host: number }
  | { readonly type: 'clock'; readonly host: number; readonly byMs: number };

/** Plans the faults and their times: the seed decides them before the world starts. */
export function planFaults(
  random: SeededRandom,
  names: readonly FaultName[],
  hosts: { workers: readonly number[]; roots: readonly number[] },
): readonly Fault[] {
  const faults = names.flatMap((name) => plan(name, random.split(name), hosts));
  return faults.sort((a, b) => a.atMs - b.atMs);
}

interface Hosts {
  readonly workers: readonly number[];
  readonly roots: readonly number[];
}

function plan(name: FaultName, random: SeededRandom, hosts: Hosts): readonly Fault[] {
  const { workers, roots } = hosts;
  const at = (): number => random.between(100, FAULT_WINDOW_MS * 0.7);
  const some = (share: number): number[] => {
    const count = Math.max(1, Math.round(share * workers.length));
    return random.shuffle([...workers]).slice(0, count);
  };
  const lasting = (act: FaultAct, lastsMs = random.between(500, 3000)): Fault => {
    const atMs = at();
    return { atMs, endMs: Math.min(FAULT_WINDOW_MS, atMs + lastsMs), act };
  };
  switch (name) {
    case 'crash30':
      return some(0.3).map((host) =>
        lasting({ type: 'crash', host, returns: random.float() < 0.9 }),
      );
    case 'roothang':
      return [lasting({ type: 'hang', host: roots[random.below(roots.length)] ?? 0 })];
    case 'rootcrash': {
      const host = roots[random.below(roots.length)] ?? 0;
      return [lasting({ type: 'crash', host, returns: true })];
    }
    case 'allroots': {
      const atMs = at();
      return roots.map((host) => ({
        atMs,
        endMs: atMs + random.between(500, 2500),
        act: { type: 'crash', host, returns: true },
      }));
    }
    case 'partition': {
      const away = random.shuffle([...workers, ...roots]);
      away.length = Math.ceil(away.length * random.between(0.1, 0.5));
      return [lasting({ type: 'partition', away, registryAway: random.float() < 0.3 })];
    }
    case 'slow':
      return some(0.1).map((host) => lasting({ type: 'hang', host }));
    case 'slowlink':
      return some(0.1).map((host) => lasting({ type: 'slow-link', host }));
    case 'loss':
      return Array.from({ length: 10 }, () => lasting({ type: 'loss' }, 0));
    case 'corrupt':
      return some(0.05).map((host) => ({
        atMs: 0,
        endMs: FAULT_WINDOW_MS,
        act: { type: 'lie', host, lie: 'corrupt' },
      }));
    case 'liar':
      return some(0.05).map((host, i) => ({
        atMs: 0,
        endMs: FAULT_WINDOW_MS,
        act: { type: 'lie', host, lie: i % 2 === 0 ? 'mute' : 'not-found' },
      }));
    case 'registry':
      return (['throttled', 'failing', 'slow', 'expired'] as const).map((mode, i) => ({
        atMs: (i * FAULT_WINDOW_MS) / 4 + random.between(0, 500),
        endMs: ((i + 0.8) * FAULT_WINDOW_MS) / 4,
        act: { type: 'registry', mode },
      }));
    case 'fulldisk':
      return some(0.33).map((host) => lasting({ type: 'full-disk', host }));
    case 'slowdisk':
      return [...some(0.33), roots[0] ?? 0].map((host) => lasting({ type: 'slow-disk', host }));
    case 'clock':
      return some(0.3).map((host) =>
        lasting({ type: 'clock', host, byMs: random.between(100, 5000) }, 0),
      );
  }
}
