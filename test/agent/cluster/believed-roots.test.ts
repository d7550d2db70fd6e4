import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BelievedRoots, loadRootTrust } from '../../../src/agent/cluster/believed-roots.ts';
import { makeClusterFiles } from '../../../src/agent/cluster/cluster-files.ts';
import { certifyRoot } from '../../../src/agent/cluster/root-certificate.ts';
import { peerIdOf } from '../../../src/net/node/identity.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import { defined } from '../../../src/util/assert.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { identity } from '../../kit/identity.ts';

const HOUR_MS = 3_600_000;
const authority = ed25519Signer(new Uint8Array(32).fill(50));
const other = ed25519Signer(new Uint8Array(32).fill(51));
const [R1, R2, R3] = [1, 2, 3].map((number) => peerIdOf(identity(number))) as [
  PeerId,
  PeerId,
  PeerId,
];
const keyOf = (number: number): Uint8Array => identity(number).publicKey;

function rootOf(number: number, basis: 'id' | 'certificate' | 'address') {
  const peer = peerIdOf(identity(number));
  const certificate = certifyRoot(authority, peer);
  return {
    peer,
    addresses: [],
    publicKey: keyOf(number),
    basis,
    ...(basis === 'certificate' && { certificate }),
  };
}

/** The roots that a host believes, after each start with the same folder. */
function host(): {
  clock: ManualClock;
  connected: PeerId[];
  dir: string;
  start: (init?: { authority?: Uint8Array; untrusted?: readonly PeerId[] }) => BelievedRoots;
} {
  const dir = tempFolder();
  const clock = new ManualClock();
  const connected: PeerId[] = [];
  return {
    clock,
    connected,
    dir,
    start: (init = {}) => {
      const believed = new BelievedRoots(
        { clock, logger: silentLogger, hash: new NodeHash(), peers: () => connected },
        {
          storeDir: dir,
          authority: 'authority' in init ? init.authority : authority.publicKey,
          untrusted: init.untrusted ?? [],
        },
      );
      believed.start();
      return believed;
    },
  };
}

describe('BelievedRoots', () => {
  it('BelievedRoots keeps roots known by id or certificate over a restart, no others', () => {
    const { start } = host();
    const first = start();
    first.found([rootOf(1, 'id'), rootOf(2, 'certificate'), rootOf(3, 'address')]);
    expect(first.keys()).toEqual([keyOf(1), keyOf(2), keyOf(3)]);
    expect(start().keys()).toEqual([keyOf(1), keyOf(2)]);
  });

  it('BelievedRoots believes a root by address while it is there, and an hour after', () => {
    const { start, clock, connected } = host();
    const believed = start();
    believed.found([rootOf(3, 'address')]);
    connected.push(R3);
    clock.advance(10 * HOUR_MS);
    expect(believed.keys()).toEqual([keyOf(3)]);
    connected.pop();
    clock.advance(HOUR_MS - 1);
    expect(believed.keys()).toEqual([keyOf(3)]);
    clock.advance(1);
    expect(believed.keys()).toEqual([]);
  });

  it('BelievedRoots drops certificates of another authority, and damaged files', () => {
    const { start, dir } = host();
    start().found([rootOf(2, 'certificate')]);
    expect(start({ authority: other.publicKey }).keys()).toEqual([]);
    const file = join(dir, 'roots');
    const kept = readFileSync(file, 'utf8');
    writeFileSync(file, kept.replace(R2, R1));
    expect(start().keys()).toEqual([]);
    for (const text of ['', '{', '[]', '{"roots":[1,{"peer":"x"}]}']) {
      writeFileSync(file, text);
      expect(start().keys()).toEqual([]);
    }
  });

  it('BelievedRoots believes no root of untrustedRoots, kept or found', () => {
    const { start } = host();
    start().found([rootOf(1, 'id'), rootOf(2, 'certificate')]);
    const believed = start({ untrusted: [R1] });
    believed.found([rootOf(1, 'id')]);
    expect(believed.keys()).toEqual([keyOf(2)]);
    expect(believed.untrustedKeys).toEqual([keyOf(1)]);
  });
});

describe('makeClusterFiles() and loadRootTrust()', () => {
  it('a root shows the certificate beside its identity, which every host believes', () => {
    const dir = join(tempFolder(), 'keys');
    const init = { dir, roots: 2, prefix: 'root' };
    const files = makeClusterFiles({ random: new SystemRandom() }, init);
    const [first, second] = files.roots.map((root) => defined(root, 'made'));
    if (first === undefined || second === undefined) throw new Error('two roots');
    const config = {
      identity: { keyFile: first.keyFile },
      cluster: { rootsAuthority: files.authorityPublic, rootCertFile: first.certFile },
      store: { dir },
      untrustedRoots: [R3],
    };
    const trust = loadRootTrust(config, first.peer);
    const believed = new BelievedRoots(
      { clock: new ManualClock(), logger: silentLogger, hash: new NodeHash(), peers: () => [] },
      trust,
    );
    expect(believed.isCertified(first.peer, trust.certificate)).toBe(true);
    expect(believed.isCertified(second.peer, trust.certificate)).toBe(false);
    expect(believed.isCertified(first.peer, undefined)).toBe(false);
    expect(trust.untrusted).toEqual([R3]);
    expect(() => loadRootTrust(config, second.peer)).toThrow(/is that of/);
    const wrong = { ...config, cluster: { rootsAuthority: files.authorityKey } };
    expect(() => loadRootTrust(wrong, first.peer)).toThrow(/no Ed25519 public key/);
    const none = { ...config, cluster: { rootsAuthority: join(dir, 'none') } };
    expect(() => loadRootTrust(none, first.peer)).toThrow(/does not exist/);
    const base64 = join(dir, 'base64');
    mkdirSync(dir, { recursive: true });
    writeFileSync(base64, Buffer.from(defined(trust.authority, 'a key')).toString('base64'));
    expect(
      loadRootTrust({ ...config, cluster: { rootsAuthority: base64 } }, first.peer).authority,
    ).toEqual(trust.authority);
    expect(() => makeClusterFiles({ random: new SystemRandom() }, init)).toThrow(/new or empty/);
  });
});
