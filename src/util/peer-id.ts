declare const peerIdBrand: unique symbol;

/** Name of a host's agent: the text form of its libp2p peer id, which encodes its public key. */
export type PeerId = string & { readonly [peerIdBrand]: true };

/** Brands a text as a peer id, unchecked, where one enters: transport, configuration, simulator. */
export function peerId(text: string): PeerId {
  return text as PeerId;
}
