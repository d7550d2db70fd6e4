import { noise } from '@chainsafe/libp2p-noise';
import type { Connection, Stream, StreamMessageEvent } from '@libp2p/interface';
import { tcp } from '@libp2p/tcp';
import { yamux } from '@libp2p/yamux';
import { multiaddr } from '@multiformats/multiaddr';
import { createLibp2p, type Libp2p } from 'libp2p';
import { ADMISSION_PROTOCOL } from '../../../src/net/admission/admission.ts';
import {
  InitiatorHandshake,
  ResponderHandshake,
  clusterKey,
} from '../../../src/net/admission/admission-handshake.ts';
import { MessageParser, type TreeMessage } from '../../../src/net/calls/call-message.ts';
import { TREE_MESSAGE_BYTES_MAX } from '../../../src/net/limits.ts';
import { converse } from '../../../src/net/admission/admission-stream.ts';
import { privateKeyOf } from '../../../src/net/node/identity.ts';
import { NodeMac } from '../../../src/runtime/node/mac.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import type { HostAddress } from '../../../src/tree/messages.ts';
import { defined } from '../../../src/util/assert.ts';
import { peerId, type PeerId } from '../../../src/util/peer-id.ts';
import { CLUSTER_KEYS } from './transports.ts';

const nodes = new Set<Libp2p>();
const parts = { mac: new NodeMac(), random: new SystemRandom() };
const NO_SIGNAL = new AbortController().signal;

/**
 * A libp2p node that speaks whatever bytes a test wants. It answers handshakes with the cluster key
 * unless that is left to the test.
 */
export async function startRaw(
  listen: readonly string[] = [],
  init: {
    maxInboundStreams?: number;
    seed?: Uint8Array;
    /** Address that it dials from. */
    from?: string;
    admission?: 'answered' | 'left alone';
  } = {},
): Promise<Libp2p> {
  const node = await createLibp2p({
    ...(init.seed !== undefined && {
      privateKey: privateKeyOf({
        seed: init.seed,
        publicKey: ed25519Signer(init.seed).publicKey,
      }),
    }),
    addresses: { listen: [...listen] },
    transports: [
      tcp(init.from === undefined ? {} : { dialOpts: { localAddress: init.from } as never }),
    ],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux(init)],
    connectionMonitor: { enabled: false },
  });
  nodes.add(node);
  if (init.admission === 'left alone') return node;
  const keys = CLUSTER_KEYS.map((secret) => clusterKey(parts.mac, secret));
  await node.handle(ADMISSION_PROTOCOL, (stream, { remotePeer }) => {
    const sides = { initiator: peerId(remotePeer.toString()), responder: peerIdOfNode(node) };
    const handshake = new ResponderHandshake(parts, { ...sides, keys });
    void converse(stream, handshake, NO_SIGNAL).catch(() => {});
  });
  return node;
}

export async function stopRaws(): Promise<void> {
  await Promise.all([...nodes].map(async (node) => node.stop()));
  nodes.clear();
}

/** A connection on which nothing was proved. */
export async function dialUnadmitted(node: Libp2p, host: HostAddress): Promise<Connection> {
  const address = defined(host.addresses[0], 'a host listens');
  return node.dial(multiaddr(`${address}/p2p/${host.peer}`));
}

/** A connection that the host has admitted. */
export async function dialRaw(node: Libp2p, host: HostAddress): Promise<Connection> {
  const connection = await dialUnadmitted(node, host);
  await admitRaw(node, connection, CLUSTER_KEYS);
  return connection;
}

/** Proves keys to a host, as an agent does; tells how it ended. */
export async function admitRaw(
  node: Libp2p,
  connection: Connection,
  secrets: readonly Uint8Array[],
): Promise<string> {
  const stream = await connection.newStream(ADMISSION_PROTOCOL);
  const handshake = new InitiatorHandshake(parts, {
    initiator: peerIdOfNode(node),
    responder: peerId(connection.remotePeer.toString()),
    keys: secrets.map((secret) => clusterKey(parts.mac, secret)),
  });
  return (await converse(stream, handshake, NO_SIGNAL)).result;
}

function peerIdOfNode(node: Libp2p): PeerId {
  return peerId(node.peerId.toString());
}

export function hostOf(node: Libp2p): HostAddress {
  const addresses = node
    .getMultiaddrs()
    .map((address) => address.toString().split('/p2p/')[0] ?? '');
  return { peer: peerId(node.peerId.toString()), addresses };
}

/** Resolves when the stream is closed or reset. */
export function closed(stream: Stream): Promise<void> {
  if (stream.status !== 'open') return Promise.resolve();
  return new Promise((resolve) => stream.addEventListener('close', () => resolve()));
}

/** All bytes of a stream until it ends, looked at as they come. */
export function received(stream: Stream, until: (bytes: Buffer) => boolean): Promise<Buffer> {
  return new Promise((resolve) => {
    let bytes = Buffer.alloc(0);
    const finish = (): void => resolve(bytes);
    stream.addEventListener('message', (event: StreamMessageEvent) => {
      bytes = Buffer.concat([bytes, event.data.subarray()]);
      if (until(bytes)) finish();
    });
    stream.addEventListener('close', finish);
  });
}

/** Takes messages of tree calls from either side, within no bound but that of the protocol. */
export function anyMessages(onMessage: (message: TreeMessage) => void): MessageParser {
  const bytesMax = (): number => TREE_MESSAGE_BYTES_MAX;
  return new MessageParser({ bytesMax, begunMax: 8, onMessage });
}
