import { noise } from '@chainsafe/libp2p-noise';
import type { Connection, Stream, StreamMessageEvent } from '@libp2p/interface';
import { tcp } from '@libp2p/tcp';
import { yamux } from '@libp2p/yamux';
import { multiaddr } from '@multiformats/multiaddr';
import { createLibp2p, type Libp2p } from 'libp2p';
import type { HostAddress } from '../../src/tree/messages.ts';
import { defined } from '../../src/util/assert.ts';
import { peerId } from '../../src/util/peer-id.ts';

const nodes = new Set<Libp2p>();

/** A libp2p node that speaks whatever bytes a test wants. */
export async function startRaw(
  listen: readonly string[] = [],
  init: { maxInboundStreams?: number } = {},
): Promise<Libp2p> {
  const node = await createLibp2p({
    addresses: { listen: [...listen] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux(init)],
    connectionMonitor: { enabled: false },
  });
  nodes.add(node);
  return node;
}

export async function stopRaws(): Promise<void> {
  await Promise.all([...nodes].map(async (node) => node.stop()));
  nodes.clear();
}

export async function dialRaw(node: Libp2p, host: HostAddress): Promise<Connection> {
  const address = defined(host.addresses[0], 'a host listens');
  return node.dial(multiaddr(`${address}/p2p/${host.peer}`));
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
