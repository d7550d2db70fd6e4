import { createPrivateKey, createPublicKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolders } from '../../runtime/node/folders.ts';
import { peerIdOf } from '../../net/node/identity.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { ed25519Signer } from '../../runtime/node/signer.ts';
import type { Random } from '../../runtime/random.ts';
import { toHex } from '../../util/bytes.ts';
import { errorText } from '../../util/errors.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { assert } from '../../util/assert.ts';
import { KeyFileError } from './key-files.ts';
import { certificateText, certifyRoot, isCertified } from './root-certificate.ts';

const SECRET_BYTES = 32;

/** DER of a PKCS #8 key for Ed25519 up to the seed (RFC 8410, section 7). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

/** The files of a new cluster. */
export interface ClusterFiles {
  readonly clusterKey: string;
  readonly authorityKey: string;
  readonly authorityPublic: string;
  readonly roots: readonly {
    readonly name: string;
    readonly peer: PeerId;
    readonly keyFile: string;
    readonly certFile: string;
  }[];
}

/**
 * Makes the secrets of a new cluster in a folder: the cluster key, the authority of the roots, and
 * an identity with its certificate for each root. Overwrites nothing. Throws KeyFileError.
 */
export function makeClusterFiles(
  components: { readonly random: Random },
  init: { readonly dir: string; readonly roots: number; readonly prefix: string },
): ClusterFiles {
  const { dir, prefix } = init;
  const { random } = components;
  const seed = random.bytes(SECRET_BYTES);
  const authority = ed25519Signer(seed);
  const key = createPrivateKey({
    key: Buffer.concat([PKCS8_PREFIX, seed]),
    format: 'der',
    type: 'pkcs8',
  });
  const hash = new NodeHash();
  const roots = Array.from({ length: init.roots }, (_, i) => {
    const rootSeed = random.bytes(SECRET_BYTES);
    const { publicKey } = ed25519Signer(rootSeed);
    const peer = peerIdOf({ seed: rootSeed, publicKey });
    const certificate = certifyRoot(authority, peer);
    assert(isCertified(hash, authority.publicKey, { peer, certificate }), 'what is made is good');
    const name = `${prefix}-${i}`;
    return {
      ...{ name, peer, keyFile: `${name}.key`, certFile: `${name}.cert` },
      content: { key: `${toHex(rootSeed)}\n`, cert: certificateText(peer, certificate) },
    };
  });
  const files: readonly (readonly [name: string, content: string, mode: number])[] = [
    ['cluster.key', `${toHex(random.bytes(SECRET_BYTES))}\n`, 0o600],
    ['roots-authority.key', String(key.export({ format: 'pem', type: 'pkcs8' })), 0o600],
    [
      'roots-authority.pub',
      String(createPublicKey(key).export({ format: 'pem', type: 'spki' })),
      0o644,
    ],
    ...roots.flatMap(({ keyFile, certFile, content }) => [
      [keyFile, content.key, 0o600] as const,
      [certFile, content.cert, 0o644] as const,
    ]),
  ];
  write(dir, files);
  return {
    clusterKey: join(dir, 'cluster.key'),
    authorityKey: join(dir, 'roots-authority.key'),
    authorityPublic: join(dir, 'roots-authority.pub'),
    roots: roots.map(({ name, peer, keyFile, certFile }) => ({
      name,
      peer,
      keyFile: join(dir, keyFile),
      certFile: join(dir, certFile),
    })),
  };
}

function write(
  dir: string,
  files: readonly (readonly [name: string, content: string, mode: number])[],
): void {
  let file = dir;
  try {
    makeFolders(dir, 0o700);
    for (const [name, content, mode] of files) {
      file = join(dir, name);
      writeFileSync(file, content, { mode, flag: 'wx', flush: true });
    }
  } catch (cause) {
    throw new KeyFileError(
      `cannot make ${file}: ${errorText(cause)}; name a folder that is new or empty`,
      { code: 'unwritable', file },
      { cause },
    );
  }
}
