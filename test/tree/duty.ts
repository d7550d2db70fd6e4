import { argv } from 'node:process';
import { pathToFileURL } from 'node:url';
import { stripeCount } from '../../src/image/block.ts';
import { RootRing } from '../../src/tree/rendezvous.ts';
import { Topology } from '../../src/tree/owner/topology.ts';
import { card, digestOf, joinOf, ORIGIN } from './kit/messages.ts';

/** Layers of the simulator's default image, in bytes. */
const LAYERS = [238, 312, 164, 96, 47, 24, 11, 2].map((mb) => mb * 1e6);
const IMAGE_BYTES = LAYERS.reduce((sum, bytes) => sum + bytes, 0);

function addTo(sums: Map<string, number>, key: string, amount: number): void {
  sums.set(key, (sums.get(key) ?? 0) + amount);
}

interface Cluster {
  readonly hosts: number;
  readonly roots: number;
  readonly zones: number;
  readonly colours: number;
}

/** The amount that each host sends, in images, when hosts join one by one. */
export function dutyOf({ hosts, roots, zones, colours }: Cluster): {
  /** Largest first. */
  readonly hostImages: readonly number[];
  readonly rootImages: readonly number[];
  readonly depthMax: number;
  readonly parentsPerHost: number;
} {
  const owners = Array.from({ length: roots }, (_, i) =>
    card(`root${i}`, { zone: `z${i % zones}` }),
  );
  const ring = new RootRing(owners.map(({ peer }) => peer));
  const sent = new Map<string, number>();
  const parents = new Set<string>();
  let depthMax = 0;
  for (const owner of owners) {
    const topology = new Topology({ self: owner, colours });
    topology.rootsChanged(roots);
    const blobs = LAYERS.map((sizeBytes, n) => {
      const digest = digestOf(n);
      const stripes = Array.from({ length: stripeCount(sizeBytes) }, (_, i) => i).filter(
        (stripe) => ring.order(digest, stripe)[0] === owner.peer,
      );
      return { blob: { digest, sizeBytes }, origin: ORIGIN, stripes, held: [] };
    });
    for (let i = 0; i < hosts; i++) {
      const host = card(`host${i}`, { zone: `z${i % zones}`, capacity: 1_000 });
      topology.join(host.peer, joinOf(host, ...blobs), 0);
    }
    for (const { blob, stripes } of blobs) {
      const share = blob.sizeBytes / stripeCount(blob.sizeBytes) / IMAGE_BYTES;
      for (const { peer, parent, depth } of stripes.flatMap((s) =>
        topology.edges(blob.digest, s),
      )) {
        addTo(sent, parent, share);
        if (parent !== owner.peer) parents.add(`${peer} ${parent}`);
        depthMax = Math.max(depthMax, depth);
      }
    }
  }
  const rootImages = owners.map(({ peer }) => sent.get(peer) ?? 0);
  for (const { peer } of owners) sent.delete(peer);
  const hostImages = [...sent.values()].sort((a, b) => b - a);
  return { hostImages, rootImages, depthMax, parentsPerHost: parents.size / hosts };
}

/** `node test/tree/duty.ts [HOSTS] [ROOTS] [ZONES] [COLOURS]` */
function main(): void {
  const [hosts = 1_000, roots = 4, zones = 1, colours = 4] = argv.slice(2).map(Number);
  const duty = dutyOf({ hosts, roots, zones, colours });
  const above = duty.hostImages.filter((images) => images > 1.3).length;
  const ofRoots = duty.rootImages.map((images) => images.toFixed(2)).join(' ');
  console.log(
    `most ${duty.hostImages[0]?.toFixed(2)}, over 1.3: ${above} hosts, roots ${ofRoots}, ` +
      `depth ${duty.depthMax}, parents per host ${duty.parentsPerHost.toFixed(1)}`,
  );
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(argv[1]).href) main();
