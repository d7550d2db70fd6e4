declare const peerIdBrand: unique symbol;

/** Name of a host's agent: the text form of its libp2p peer id, which is its public key. */
export type PeerId = string & { readonly [peerIdBrand]: true };

/** For the places where a peer id enters: the transport, the configuration, the simulator. */
export function peerId(text: string): PeerId {
  return text as PeerId;
}
