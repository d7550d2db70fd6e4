import { randomBytes } from 'node:crypto';
import { MemoryStore } from '../../src/blockstore/memory-store.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { BLOCK_SIZE_BYTES } from '../../src/image/block.ts';
import type { AttestedBlock } from '../../src/image/attested-block.ts';
import type { Digest } from '../../src/image/digest.ts';
import { peerIdOf, publicKeyOf } from '../../src/net/node/identity.ts';
import { Libp2pTransport } from '../../src/net/libp2p-transport.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { NodeMac } from '../../src/runtime/node/mac.ts';
import { SystemRandom } from '../../src/runtime/node/random.ts';
import { ed25519Signer } from '../../src/runtime/node/signer.ts';
import { TransferEngine } from '../../src/transfer/drive/engine.ts';
import type { BlockServer } from '../../src/transfer/contracts/transport.ts';
import type { HostAddress } from '../../src/tree/messages.ts';
import { defined } from '../../src/util/assert.ts';
import { BufferPool, PooledBytes } from '../../src/util/buffer-pool.ts';
import { CountingOrigin } from '../kit/engine-cluster.ts';

/** Changes each answer to a peer. */
type Tamper = (answer: AttestedBlock) => AttestedBlock;

export interface HostileAgent {
  readonly engine: TransferEngine;
  readonly peer: string;
  /** Number of blocks that it served. */
  readonly served: () => number;
  stop(): Promise<void>;
}

/**
 * An agent of the real parts, admitted to the cluster, that tampers with the blocks that it serves.
 * It may have many children.
 */
export async function startHostileAgent(init: {
  clusterKey: Uint8Array;
  roots: readonly HostAddress[];
  tamper: Tamper;
}): Promise<HostileAgent> {
  const [port] = await freePorts(1);
  const seed = randomBytes(32);
  const signer = ed25519Signer(seed);
  const identity = { seed, publicKey: signer.publicKey };
  const addresses = [`/ip4/127.0.0.1/tcp/${port}`];
  const parts = {
    clock: new SystemClock(),
    random: new SystemRandom(),
    logger: silentLogger,
    metrics: silentMetrics,
    mac: new NodeMac(),
    hash: new NodeHash(),
    pool: new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 8 }),
  };
  const keys = [init.clusterKey];
  const transport = new Libp2pTransport(parts, {
    identity,
    listen: addresses,
    clusterKeys: () => keys,
  });
  const store = new MemoryStore();
  const distrust = new Set<Digest>();
  const rest = { transport, store, origin: new CountingOrigin(), distrust, signer };
  const engine = new TransferEngine(
    { ...parts, ...rest },
    {
      self: { peer: peerIdOf(identity), addresses, zone: 'default', capacity: 6 },
      role: 'child',
      roots: init.roots,
      rootKeys: init.roots.map((root) => defined(publicKeyOf(root.peer), 'a key')),
    },
  );
  const served = { count: 0 };
  transport.serve({ block: tampering(engine.blockServer, init.tamper, served) });
  await store.start();
  await transport.start();
  engine.start();
  const stop = async (): Promise<void> => {
    await engine.stop();
    await transport.stop();
    await store.stop();
  };
  return { engine, peer: peerIdOf(identity), served: () => served.count, stop };
}

function tampering(server: BlockServer, tamper: Tamper, served: { count: number }): BlockServer {
  return {
    ...server,
    onRequest: (incoming) => {
      const answer = incoming.answer.bind(incoming);
      incoming.answer = (block) => {
        served.count++;
        return answer(tamper(block));
      };
      server.onRequest(incoming);
    },
  };
}

/** Flips one bit of the payload and keeps the attestation. */
export function flipBit(answer: AttestedBlock): AttestedBlock {
  const bytes = answer.payload.bytes.slice();
  bytes[bytes.length >> 1]! ^= 1;
  return { ...answer, payload: PooledBytes.unpooled(bytes) };
}
