import { stripeCount } from '../src/image/block.ts';
import { SystemRandom } from '../src/runtime/node/random.ts';
import { makeImage } from '../src/sim/workload.ts';
import { HostCore } from '../src/transfer/host/host-core.ts';
import type { Handlers, TreeCalls } from '../src/transfer/contracts/calls.ts';
import type { HostAddress, HostCard, JoinRequest, WantedBlob } from '../src/tree/messages.ts';
import { RootRing } from '../src/tree/rendezvous.ts';
import { peerId, type PeerId } from '../src/util/peer-id.ts';
import { benchTransport } from './net-peer.ts';

/** Roots that share the trees, as in the simulator's default. */
const ROOTS = 4;

const ORIGIN = { registry: 'registry.example', repository: 'library/application' };

/** A name in the form and the length of host names. */
export function hostName(number: number): PeerId {
  // Base 9, since Base58 has no 0.
  const digits = [...number.toString(9)].map((digit) => 1 + Number(digit)).join('');
  return peerId(`12D3KooW${digits.padStart(44, 'A')}`);
}

function hostCard(number: number): HostCard {
  const addresses = [
    `/ip4/10.${(number >> 16) & 255}.${(number >> 8) & 255}.${number & 255}/tcp/19147`,
  ];
  return { peer: hostName(number), addresses, zone: 'z0', capacity: 8 };
}

/**
 * Returns a function that makes any host's JOIN to one owner, for the owner's share of a default
 * image.
 */
export function joinMaker(owner: PeerId): (host: number) => JoinRequest {
  const others = Array.from({ length: ROOTS - 1 }, (_, i) => hostName(1e9 + i));
  const ring = new RootRing([owner, ...others]);
  const blobs: WantedBlob[] = makeImage().blobs.map(({ digest, sizeBytes }) => {
    const all = Array.from({ length: stripeCount(sizeBytes) }, (_, stripe) => stripe);
    const stripes = all.filter((stripe) => ring.order(digest, stripe)[0] === owner);
    return { blob: { digest, sizeBytes }, origin: ORIGIN, stripes, held: [] };
  });
  const asked = blobs.filter(({ stripes }) => stripes.length > 0);
  return (host) => ({ host: hostCard(host), blobs: asked });
}

/** The logic of a root that is one of four. */
export function ownerCore(self: HostAddress): HostCore<undefined, undefined> {
  const roots = Array.from({ length: ROOTS - 1 }, (_, i) => hostCard(1e9 + i));
  return new HostCore(
    {
      ops: { length: () => 0, retain: () => {}, release: () => {} },
      random: new SystemRandom(),
      held: () => false,
      blocksOf: () => [],
    },
    { self: { ...self, zone: 'z0', capacity: 8 }, role: 'root', roots: [self, ...roots] },
  );
}

/**
 * Answers as a root does, for the host that the message names: one connection asks for many hosts.
 */
function treeHandlers(core: () => HostCore<undefined, undefined>): Handlers<TreeCalls> {
  return {
    join: (_peer, request) => {
      const reply = core().join(request.host.peer, request, performance.now());
      core().take();
      return Promise.resolve(reply);
    },
    'open-blob': () => Promise.resolve({ outcome: 'no-way', isBelieved: true }),
  };
}

/**
 * Runs as a process of its own: sends its address, forgets its hosts at `new`, and sends its CPU
 * seconds at each message.
 */
async function main(): Promise<void> {
  let core: HostCore<undefined, undefined> | undefined;
  const newCore = (): HostCore<undefined, undefined> =>
    ownerCore({ peer: transport.self, addresses: transport.addresses() });
  const transport = benchTransport({ calls: treeHandlers(() => (core ??= newCore())) });
  await transport.start();
  process.send?.({ peer: transport.self, addresses: transport.addresses() });
  process.on('message', (message) => {
    if (message === 'new') core = undefined;
    const { user, system } = process.cpuUsage();
    process.send?.({ cpuSeconds: (user + system) / 1e6 });
  });
  process.on('disconnect', () => void transport.stop());
}

if (process.send !== undefined && process.argv.includes('--bench-owner')) await main();
