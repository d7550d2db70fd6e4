import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { publicKeyOf } from '../../net/node/identity.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { makeFolders } from '../../runtime/node/folders.ts';
import { errorText } from '../../util/errors.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';
import { isCertified, loadAuthority, loadCertificate } from './root-certificate.ts';
import type { FoundRoot } from './root-finder.ts';

/** A root that was known by its address alone is believed for so long after it was last there. */
const BY_ADDRESS_MS = 3_600_000;

/**
 * Roots that are kept: far more than there are, over many replacements. The one seen longest ago
 * goes first.
 */
const KEPT_MAX = 64;

/** Below the folder of the store. */
const FILE = 'roots';

/** Beside the identity, where the configuration names no other file. */
const CERTIFICATE_FILE = 'root.cert';

interface Components {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly hash: Pick<Hash, 'ed25519Verify'>;
  /** Peers that there is a connection to. */
  readonly peers: () => readonly PeerId[];
}

/** A root of the file. */
interface Kept {
  readonly peer: string;
  /** In base64; absent of a root that the configuration named by its id. */
  readonly certificate?: string;
}

/** What `BelievedRoots` is told of the configuration. */
export interface RootTrust {
  readonly storeDir: string;
  /** Public key. */
  readonly authority: Uint8Array | undefined;
  readonly untrusted: readonly PeerId[];
}

/**
 * Whose attestations this host believes. Roots known by their id or by a certificate are believed
 * from the first time that they are found, also after a restart and while they are away: hosts hold
 * blocks that they attested. Roots known by their address alone are believed while they are there
 * and for an hour after, and are not kept. `untrustedRoots` are never believed.
 *
 * Life: constructed -> `start()` once the store's folder is there -> `found()` as roots are found.
 */
export class BelievedRoots {
  readonly #components: Components;
  readonly #init: RootTrust;
  readonly #untrusted: ReadonlySet<PeerId>;
  readonly #kept = new BoundedMap<PeerId, Kept>({ entriesMax: KEPT_MAX });
  readonly #byAddress = new BoundedMap<PeerId, number>({ entriesMax: KEPT_MAX });
  #written = '';

  constructor(components: Components, init: RootTrust) {
    this.#components = components;
    this.#init = init;
    this.#untrusted = new Set(init.untrusted);
  }

  get #file(): string {
    return join(this.#init.storeDir, FILE);
  }

  /**
   * Reads what was kept. A file that cannot be read, or a certificate of another authority, is as
   * none.
   */
  start(): void {
    for (const { peer, certificate } of this.#read()) {
      const root = peerId(peer);
      const shown = certificate === undefined ? undefined : Buffer.from(certificate, 'base64');
      if (publicKeyOf(root) === undefined) continue;
      if (shown !== undefined && !this.isCertified(root, shown)) continue;
      this.#kept.set(root, { peer, ...(certificate !== undefined && { certificate }) });
    }
  }

  /**
   * Whether the authority of the configuration says that the host is a root; undefined without an
   * authority.
   */
  isCertified(peer: PeerId, certificate: Uint8Array | undefined): boolean | undefined {
    const { authority } = this.#init;
    if (authority === undefined) return undefined;
    return isCertified(this.#components.hash, authority, { peer, certificate });
  }

  isUntrusted(peer: PeerId): boolean {
    return this.#untrusted.has(peer);
  }

  /** Public keys of the roots whose blocks are dropped wherever they lie. */
  get untrustedKeys(): readonly Uint8Array[] {
    return [...this.#untrusted].flatMap((peer) => publicKeyOf(peer) ?? []);
  }

  /** The roots that are there now. */
  found(roots: readonly FoundRoot[]): void {
    for (const { peer, basis, certificate } of roots) {
      if (this.#untrusted.has(peer)) continue;
      if (basis === 'address') this.#byAddress.set(peer, this.#components.clock.nowMs());
      if (basis === 'id') this.#kept.set(peer, { peer });
      if (basis === 'certificate' && certificate !== undefined) {
        const text = Buffer.from(certificate).toString('base64');
        this.#kept.set(peer, { peer, certificate: text });
      }
    }
    this.#write();
  }

  /** The public keys that are believed now. */
  keys(): readonly Uint8Array[] {
    const nowMs = this.#components.clock.nowMs();
    const connected = new Set(this.#components.peers());
    for (const [peer, seenMs] of [...this.#byAddress]) {
      if (connected.has(peer)) this.#byAddress.set(peer, nowMs);
      else if (nowMs - seenMs >= BY_ADDRESS_MS) this.#byAddress.delete(peer);
    }
    const peers = new Set([...this.#kept, ...this.#byAddress].map(([peer]) => peer));
    return [...peers]
      .filter((peer) => !this.#untrusted.has(peer))
      .flatMap((peer) => publicKeyOf(peer) ?? []);
  }

  #read(): readonly Kept[] {
    try {
      const text = readFileSync(this.#file, 'utf8');
      this.#written = text;
      const { roots } = Object(JSON.parse(text)) as { roots?: unknown };
      if (!Array.isArray(roots)) throw new Error('it has no list of roots');
      return roots.filter(isKept).slice(-KEPT_MAX);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        const fields = { file: this.#file, error: errorText(error) };
        this.#components.logger.warn(fields, 'the roots of earlier cannot be read: the file goes');
        rmSync(this.#file, { force: true });
        this.#written = '';
      }
      return [];
    }
  }

  /** Whole or not at all. Without the file the roots are found anew. */
  #write(): void {
    const kept = [...this.#kept].map(([, root]) => root);
    const text = `${JSON.stringify({ version: 1, roots: kept })}\n`;
    if (kept.length === 0 || text === this.#written) return;
    try {
      makeFolders(this.#init.storeDir, 0o700);
      writeFileSync(`${this.#file}.new`, text, { mode: 0o600, flush: true });
      renameSync(`${this.#file}.new`, this.#file);
      this.#written = text;
    } catch (error) {
      const fields = { file: this.#file, error: errorText(error) };
      this.#components.logger.warn(fields, 'the roots could not be kept');
    }
  }
}

function isKept(value: unknown): value is Kept {
  if (typeof value !== 'object' || value === null) return false;
  const { peer, certificate } = value as Record<string, unknown>;
  return typeof peer === 'string' && ['string', 'undefined'].includes(typeof certificate);
}

/** What the configuration says of roots, read from its files. Throws KeyFileError. */
export function loadRootTrust(
  config: {
    readonly identity: { readonly keyFile: string };
    readonly cluster: {
      readonly rootsAuthority?: string | undefined;
      readonly rootCertFile?: string | undefined;
    };
    readonly store: { readonly dir: string };
    readonly untrustedRoots: readonly string[];
  },
  self: PeerId,
): RootTrust & { readonly certificate: Uint8Array | undefined } {
  const { rootsAuthority, rootCertFile } = config.cluster;
  const beside = join(dirname(config.identity.keyFile), CERTIFICATE_FILE);
  return {
    storeDir: config.store.dir,
    authority: rootsAuthority === undefined ? undefined : loadAuthority(rootsAuthority),
    untrusted: config.untrustedRoots.map((peer) => peerId(peer)),
    certificate: loadCertificate(rootCertFile ?? beside, self),
  };
}
