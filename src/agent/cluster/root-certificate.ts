import { readFileSync } from 'node:fs';
import { createPublicKey } from 'node:crypto';
import { CERTIFICATE_BYTES } from '../../net/admission/admission-codec.ts';
import type { Hash, Signer } from '../../runtime/codec.ts';
import { errorText } from '../../util/errors.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';
import { KeyFileError } from './key-files.ts';

/**
 * What a certificate says first: it is good for nothing else, and a signature for something else is
 * none.
 */
const LABEL = 'xylem-root-1';

/** An Ed25519 public key, and the DER of a SubjectPublicKeyInfo that ends with one. */
const KEY_BYTES = 32;
const SPKI_BYTES = 44;

/** The authority's signature that the host with this peer id is a root. */
export function certifyRoot(authority: Signer, peer: PeerId): Uint8Array {
  return authority.sign(messageFor(peer));
}

/** Whether the authority says that the host is a root. */
export function isCertified(
  hash: Pick<Hash, 'ed25519Verify'>,
  authority: Uint8Array,
  root: { readonly peer: PeerId; readonly certificate: Uint8Array | undefined },
): boolean {
  const { peer, certificate } = root;
  if (certificate?.length !== CERTIFICATE_BYTES) return false;
  return hash.ed25519Verify(authority, messageFor(peer), certificate);
}

/** The content of a file that holds a certificate. */
export function certificateText(peer: PeerId, certificate: Uint8Array): string {
  return `${LABEL} ${peer} ${Buffer.from(certificate).toString('base64')}\n`;
}

/** The certificate in a file; undefined when there is no file. Throws KeyFileError. */
export function loadCertificate(file: string, peer: PeerId): Uint8Array | undefined {
  const text = readText(file, 'cluster.rootCertFile');
  if (text === undefined) return undefined;
  const [label, named, encoded = ''] = text.trim().split(/\s+/);
  const certificate = new Uint8Array(Buffer.from(encoded, 'base64'));
  if (label !== LABEL || named === undefined || certificate.length !== CERTIFICATE_BYTES) {
    throw damaged(
      file,
      `${file} is no certificate of a root: it must be a line "${LABEL} PEER SIGNATURE" as ` +
        '`xylem cluster init` makes it',
    );
  }
  if (peerId(named) !== peer) {
    throw damaged(
      file,
      `the certificate in ${file} is that of ${named}, but this host is ${peer}: give it the ` +
        'certificate that was made for its identity.keyFile',
    );
  }
  return certificate;
}

/** The public key in a file: PEM, or base64 of its 32 bytes. Throws KeyFileError. */
export function loadAuthority(file: string): Uint8Array {
  const text = readText(file, 'cluster.rootsAuthority');
  if (text === undefined) {
    throw new KeyFileError(
      `the key of the authority of the roots ${file} (cluster.rootsAuthority) does not ` +
        'exist: `xylem cluster init` makes one',
      { code: 'missing', file },
    );
  }
  const key = text.includes('-----BEGIN')
    ? keyOfPem(text)
    : keyOfBytes(Buffer.from(text, 'base64'));
  if (key !== undefined) return key;
  throw damaged(
    file,
    `${file} (cluster.rootsAuthority) holds no Ed25519 public key: it must be PEM, or base64 ` +
      'of 32 bytes',
  );
}

function keyOfPem(text: string): Uint8Array | undefined {
  // A private key would do too, and must not be on every host.
  if (!text.includes('-----BEGIN PUBLIC KEY-----')) return undefined;
  try {
    return keyOfBytes(createPublicKey(text).export({ format: 'der', type: 'spki' }));
  } catch {
    return undefined;
  }
}

function keyOfBytes(bytes: Uint8Array): Uint8Array | undefined {
  if (bytes.length === KEY_BYTES) return new Uint8Array(bytes);
  return bytes.length === SPKI_BYTES ? new Uint8Array(bytes.subarray(-KEY_BYTES)) : undefined;
}

function messageFor(peer: PeerId): Uint8Array {
  return new TextEncoder().encode(`${LABEL} ${peer}`);
}

function readText(file: string, key: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    const text = `cannot read ${file} (${key}): ${errorText(cause)}`;
    throw new KeyFileError(text, { code: 'unreadable', file }, { cause });
  }
}

function damaged(file: string, text: string): KeyFileError {
  return new KeyFileError(text, { code: 'damaged', file });
}
