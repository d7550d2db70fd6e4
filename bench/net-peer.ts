import { blockIndex, BLOCK_SIZE_BYTES } from '../src/image/block.ts';
import { Libp2pTransport } from '../src/net/libp2p-transport.ts';
import { silentLogger } from '../src/runtime/logger.ts';
import { silentMetrics } from '../src/runtime/metrics.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { NodeMac } from '../src/runtime/node/mac.ts';
import { SystemRandom } from '../src/runtime/node/random.ts';
import { ed25519Signer } from '../src/runtime/node/signer.ts';
import type { Handlers, TreeCalls } from '../src/transfer/contracts/calls.ts';
import type { BlockServer } from '../src/transfer/contracts/transport.ts';
import { BufferPool, PooledBytes } from '../src/util/buffer-pool.ts';

/**
 * Block index from which on the peer answers with a small payload; its size in bytes is the index
 * minus this.
 */
export const SMALL_FROM = 1_000_000;

const ATTESTATION = { signer: new Uint8Array(32), signature: new Uint8Array(164) };

const server: BlockServer = {
  onRequest: (incoming) => {
    const { index } = incoming.request;
    const length = index < SMALL_FROM ? BLOCK_SIZE_BYTES : index - SMALL_FROM;
    const payload = new PooledBytes(block, length, undefined);
    void incoming.answer({ payload, attestation: ATTESTATION });
    payload.release();
  },
  onPromote: () => {},
  onCancel: () => {},
  onOrder: () => {},
  onAlive: () => {},
  onPeerGone: () => {},
};
const block = new Uint8Array(BLOCK_SIZE_BYTES).fill(blockIndex(7));

const CLUSTER_KEY = new Uint8Array(32).fill(7);

/** A transport that answers every request for a block from memory at once. */
export function benchTransport(
  init: { readonly clusterKey?: Uint8Array; readonly calls?: Handlers<TreeCalls> } = {},
): Libp2pTransport {
  const clusterKeys = [init.clusterKey ?? CLUSTER_KEY];
  const random = new SystemRandom();
  const seed = random.bytes(32);
  const transport = new Libp2pTransport(
    {
      clock: new SystemClock(),
      random,
      logger: silentLogger,
      metrics: silentMetrics,
      mac: new NodeMac(),
      pool: new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 64 }),
    },
    {
      identity: { seed, publicKey: ed25519Signer(seed).publicKey },
      listen: ['/ip4/127.0.0.1/tcp/0'],
      clusterKeys: () => clusterKeys,
    },
  );
  transport.serve({ block: server, calls: init.calls ?? {} });
  return transport;
}

/** Runs as a process of its own: sends its address, then its CPU seconds at each request. */
async function main(): Promise<void> {
  const transport = benchTransport();
  await transport.start();
  process.send?.({ peer: transport.self, addresses: transport.addresses() });
  process.on('message', () => {
    const { user, system } = process.cpuUsage();
    process.send?.({ cpuSeconds: (user + system) / 1e6 });
  });
  process.on('disconnect', () => void transport.stop());
}

if (process.send !== undefined && process.argv.includes('--bench-peer')) await main();
