import {
  blockIndex,
  BLOB_SIZE_BYTES_MAX,
  type BlobOrigin,
  type BlockIndex,
} from '../../image/block.ts';
import { digestBytes, parseDigest, type Digest } from '../../image/digest.ts';
import { defined } from '../../util/assert.ts';
import { toHex } from '../../util/bytes.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';
import { atMost, struct, text, u64, type Codec } from './codec.ts';
import { badValue, overLimit } from './errors.ts';

/** Bytes of a registry's and a repository's name (the distribution spec names 255 as the usual bound), an address, a zone. */
const NAME_BYTES_MAX = 255;

/** Base58 of a key: 52 characters for Ed25519; other kinds are no hosts of ours. */
const PEER_ID_BYTES_MAX = 64;
const PEER_ID = /^[1-9A-HJ-NP-Za-km-z]{32,64}$/;

const DIGEST_BYTES = 32;

/** Blocks that the largest blob may have. */
const BLOCK_INDEX_MAX = 2 ** 32 - 1;

/** A name or an address: text of at most 255 bytes. */
export const name = text(NAME_BYTES_MAX);

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
  read: (reader) =>
    defined(parseDigest(`sha256:${toHex(reader.raw(DIGEST_BYTES))}`), '32 bytes are a sha256'),
};

/** The size of a blob in bytes. */
export const size = atMost(BLOB_SIZE_BYTES_MAX, u64);

/** Where the registry has a blob. */
export const origin = struct<BlobOrigin>({ registry: name, repository: name });

/** Block indices behind their count (u32). */
export function indices(countMax: number): Codec<readonly BlockIndex[]> {
  return {
    write: (writer, value, field) => {
      if (value.length > countMax) throw overLimit(field, value.length, countMax);
      writer.u32(value.length);
      for (const index of value) {
        if (index > BLOCK_INDEX_MAX) throw overLimit('index', index, BLOCK_INDEX_MAX);
        writer.u32(index);
      }
    },
    read: (reader, field) => {
      const count = reader.u32();
      if (count > countMax) throw overLimit(field, count, countMax);
      const bytes = reader.raw(4 * count);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      return Array.from({ length: count }, (_, i) => blockIndex(view.getUint32(4 * i, true)));
    },
  };
}
