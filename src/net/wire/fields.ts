import {
  blockIndex,
  BLOB_SIZE_BYTES_MAX,
  type BlobOrigin,
  type BlockIndex,
  type OpaqueName,
} from '../../image/block.ts';
import {
  ATTESTATION_SIGNATURE_BYTES,
  ATTESTATION_SIGNER_BYTES,
  type Attestation,
} from '../../image/attestation.ts';
import { digestBytes, digestOfSha256, type Digest } from '../../image/digest.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';
import { isTcpAddress } from './addresses.ts';
import {
  absentAs,
  atMost,
  checked,
  copied,
  optional,
  struct,
  text,
  u32,
  u64,
  type Codec,
} from './codec.ts';
import { badValue } from './errors.ts';

/**
 * Bytes of a registry's and a repository's name (the distribution spec names 255 as the usual
 * bound), an address, a zone.
 */
const NAME_BYTES_MAX = 255;

/** Base58 of a key: 52 characters for Ed25519; hosts have no keys of other kinds. */
const PEER_ID_BYTES_MAX = 64;
const PEER_ID = /^[1-9A-HJ-NP-Za-km-z]{32,64}$/;

/** A storage prefix: a host and the folders of a bucket. */
const STORAGE_BYTES_MAX = 1024;

const DIGEST_BYTES = 32;

/** A name or an address: text of at most 255 bytes. */
export const name = text(NAME_BYTES_MAX);

/** Where a host is dialled. */
export const address = checked(name, (value, field) => {
  if (!isTcpAddress(value)) throw badValue(field, '/ip4|ip6/ADDRESS/tcp/PORT', value);
});

const peerText = text(PEER_ID_BYTES_MAX);

/** The name of a host: a peer id. */
export const peer: Codec<PeerId> = {
  write: peerText.write,
  read: (reader, field) => {
    const value = peerText.read(reader, field);
    if (!PEER_ID.test(value)) throw badValue(field, 'a peer id', value);
    return peerId(value);
  },
};

/** The 32 bytes of a sha256. */
export const digest: Codec<Digest> = {
  write: (writer, value) => writer.raw(digestBytes(value)),
  read: (reader) => digestOfSha256(reader.raw(DIGEST_BYTES)),
};

/** A root's signature. */
export const attestation = struct<Attestation>({
  signer: copied(ATTESTATION_SIGNER_BYTES),
  signature: copied(ATTESTATION_SIGNATURE_BYTES),
});

/** The size of a blob in bytes. */
export const size = atMost(BLOB_SIZE_BYTES_MAX, u64);

/** What names a blob at a storage whose paths hold no digest. */
const opaqueName = struct<OpaqueName>({
  path: text(STORAGE_BYTES_MAX),
  etag: name,
  sizeBytes: size,
});

/** Where the registry has a blob. */
export const origin = struct<BlobOrigin>({
  registry: name,
  repository: name,
  storage: absentAs('', text(STORAGE_BYTES_MAX)),
  content: optional(digest),
  opaque: optional(opaqueName),
});

/** The place of a block in its blob (u32). */
export const index: Codec<BlockIndex> = {
  write: u32.write,
  read: (reader) => blockIndex(reader.u32()),
};
