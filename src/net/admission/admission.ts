import type { Connection, Stream } from '@libp2p/interface';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Mac } from '../../runtime/mac.ts';
import type { Random } from '../../runtime/random.ts';
import { assert } from '../../util/assert.ts';
import { bytesEqual } from '../../util/bytes.ts';
import { CodedError, errorText } from '../../util/errors.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';
import {
  InitiatorHandshake,
  ResponderHandshake,
  clusterKey,
  type ClusterKey,
  type Handshake,
  type HandshakeEnd,
} from './admission-handshake.ts';
import { HungUpError, converse } from './admission-stream.ts';
import { DeadlineError, within } from '../../runtime/deadline.ts';
import type { Door } from './door.ts';
import { WireError } from '../wire/errors.ts';
import { WIRE_VERSION } from '../wire/version.ts';
import {
  ADMISSION_MS,
  CLUSTER_KEYS_CHECK_MS,
  CLUSTER_KEYS_MAX,
  CONNECTIONS_MAX,
  REFUSED_LINGER_MS,
  RENEWALS_MAX,
  VERSION_TOLD_MS,
} from '../limits.ts';
import type { AdmissionResult, NetMetrics } from '../metrics.ts';

/**
 * Mutual proof of the cluster key, once per connection and again when the key it was proved with is
 * taken away.
 */
export const ADMISSION_PROTOCOL = '/xylem/admission/2';

/**
 * How an admission ends, for the metric.
 *
 * - `admitted`: both sides have proved the key. `wrong-key`: they have none in common.
 * - `version`: the peer speaks another version of the wire protocol.
 * - `timeout`: not done within `ADMISSION_MS`.
 * - `protocol`: the peer said something else, wanted something else first, or left before the end.
 * - `refused`: turned away at the door, or the peer that we dialled hung up on us.
 */
/** Why a connection is of no use. */
export class AdmissionError extends CodedError<{
  readonly code: Exclude<AdmissionResult, 'admitted'>;
  readonly peer: PeerId;
}> {}

interface Components {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly mac: Mac;
  readonly metrics: NetMetrics;
  readonly door: Door;
}

interface Init {
  readonly self: PeerId;
  /**
   * The cluster keys that are valid now, the one to prove first; the same list as long as they are
   * the same.
   */
  readonly clusterKeys: () => readonly Uint8Array[];
  /** Shows others that this host is a root. */
  readonly certificate?: Uint8Array | undefined;
  /** The last admitted connection of the peer is gone. */
  readonly onPeerGone: (peer: PeerId) => void;
}

/** A connection, from its opening to its close. */
interface Entry {
  readonly connection: Connection;
  readonly peer: PeerId;
  readonly outcome: PromiseWithResolvers<void>;
  /** Until it is admitted. */
  readonly timer: Timer;
  state: 'stranger' | 'admitted' | 'ended';
  /** The key that it was last proved with. */
  key: ClusterKey | undefined;
  /** What the peer showed as a root, unchecked. */
  certificate: Uint8Array | undefined;
  /** A handshake that the peer began is in flight. */
  answering: boolean;
}

/**
 * Admits connections: the dialler proves the cluster key and the listener after it, over a stream
 * of `/xylem/admission/2`; before that no other stream of the peer is taken and none is opened. A
 * connection that fails is closed, and the peer that failed turned away.
 *
 * When a key is no longer valid, the connections proved with it are proved anew with another, or
 * closed: so a key that was stolen is of no use once it is taken away, and no connection is lost
 * while hosts have both.
 *
 * Life: constructed -> `onOpen()` and `onClose()` for each connection -> `stop()`.
 */
export class Admission {
  readonly #components: Components;
  readonly #init: Init;
  readonly #entries = new Map<Connection, Entry>();
  readonly #ofPeer = new Map<PeerId, Set<Entry>>();
  readonly #stopping = new AbortController();
  readonly #renewals = new Limiter({ runningMax: RENEWALS_MAX, waitingMax: CONNECTIONS_MAX });
  #secrets: readonly Uint8Array[] = [];
  #keys: readonly ClusterKey[] = [];
  #versionToldMs = Number.NEGATIVE_INFINITY;
  #check: Timer;

  constructor(components: Components, init: Init) {
    this.#components = components;
    this.#init = init;
    this.#check = this.#nextCheck();
  }

  /** Peers with an admitted connection. */
  peers(): readonly PeerId[] {
    return [...this.#ofPeer.keys()];
  }

  isAdmitted(connection: Connection): boolean {
    return this.#entries.get(connection)?.state === 'admitted';
  }

  /** What the peer of an admitted connection showed as a root, unchecked. */
  certificateOf(connection: Connection): Uint8Array | undefined {
    return this.#entries.get(connection)?.certificate;
  }

  /**
   * Resolves when the connection is admitted. Rejects with AdmissionError, or with the signal's
   * reason.
   */
  async admitted(connection: Connection, signal: AbortSignal): Promise<void> {
    const entry = this.#entries.get(connection);
    if (entry === undefined) {
      throw failure(peerIdOf(connection), 'refused', new Error('the connection is closed'));
    }
    return orAbort(entry.outcome.promise, signal);
  }

  /** A new connection: proves the key on it, or waits that the peer does. */
  onOpen(connection: Connection): void {
    const entry: Entry = {
      connection,
      peer: peerIdOf(connection),
      outcome: Promise.withResolvers(),
      timer: this.#components.clock.setTimer(ADMISSION_MS, () => this.#onLate(entry)),
      state: 'stranger',
      key: undefined,
      certificate: undefined,
      answering: false,
    };
    // Nobody may be waiting for it.
    entry.outcome.promise.catch(() => {});
    this.#entries.set(connection, entry);
    if (connection.direction === 'outbound') void this.#prove(entry);
  }

  onClose(connection: Connection): void {
    const entry = this.#entries.get(connection);
    if (entry === undefined) return;
    this.#entries.delete(connection);
    const { state } = entry;
    const error = this.#end(entry, hangUpResult(entry), new HungUpError('the connection closed'));
    // Of two connections with a peer the node that dialled closes one: nothing is wrong.
    const isSecond = this.#ofPeer.has(entry.peer);
    if (state === 'stranger' && !isSecond) this.#report(connection, error);
  }

  /** Whether there is an admitted connection with the peer. */
  knows(peer: PeerId): boolean {
    return this.#ofPeer.has(peer);
  }

  /**
   * The peer behind an inbound stream; undefined when it is not admitted, and the stream is reset.
   * A dialler that wants something before its admission loses the connection; a listener may only
   * be ahead of our own end of the handshake.
   */
  pass(stream: Stream, connection: Connection): PeerId | undefined {
    const entry = this.#entries.get(connection);
    if (entry?.state === 'admitted') return entry.peer;
    const error = new Error(`a stream of ${stream.protocol} before the admission`);
    stream.abort(error);
    if (entry !== undefined && connection.direction === 'inbound') {
      this.#fail(entry, 'protocol', error);
    }
    return undefined;
  }

  /** Answers a handshake that the peer began: a dialler's first, or a renewal. */
  async serve(stream: Stream, connection: Connection): Promise<void> {
    const entry = this.#entries.get(connection);
    const may = entry?.state === 'admitted' || connection.direction === 'inbound';
    if (entry === undefined || entry.state === 'ended' || entry.answering || !may) {
      return stream.abort(new Error('no handshake belongs here now'));
    }
    entry.answering = true;
    const init = this.#handshakeInit({ initiator: entry.peer, responder: this.#init.self });
    await this.#run(entry, () =>
      this.#converse(stream, new ResponderHandshake(this.#components, init)),
    );
    entry.answering = false;
  }

  stop(): void {
    this.#check.cancel();
    this.#stopping.abort(new Error('the transport stops'));
    for (const entry of this.#entries.values()) entry.timer.cancel();
  }

  /** Begins a handshake. */
  async #prove(entry: Entry): Promise<void> {
    const init = this.#handshakeInit({ initiator: this.#init.self, responder: entry.peer });
    await this.#run(entry, () =>
      this.#within(async (signal) => {
        const stream = await entry.connection.newStream(ADMISSION_PROTOCOL, { signal });
        return this.#converse(stream, new InitiatorHandshake(this.#components, init));
      }),
    );
  }

  #handshakeInit<S>(sides: S): S & { keys: readonly ClusterKey[]; certificate?: Uint8Array } {
    const { certificate } = this.#init;
    const shown = certificate === undefined ? {} : { certificate };
    return { ...sides, keys: this.#currentKeys(), ...shown };
  }

  async #run(entry: Entry, handshake: () => Promise<HandshakeEnd>): Promise<void> {
    try {
      const end = await handshake();
      if (end.result === 'admitted') this.#admit(entry, end);
      else if (end.result === 'version') this.#fail(entry, 'version', versionError(end.theirs));
      else this.#fail(entry, 'wrong-key', new Error('no cluster key in common'));
    } catch (error) {
      this.#fail(entry, resultOf(error, entry), error);
    }
  }

  #converse(stream: Stream, handshake: Handshake): Promise<HandshakeEnd> {
    return this.#within((signal) => converse(stream, handshake, signal));
  }

  #within<T>(task: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return within(this.#components.clock, ADMISSION_MS, task, { signal: this.#stopping.signal });
  }

  #admit(entry: Entry, end: Extract<HandshakeEnd, { result: 'admitted' }>): void {
    if (entry.state === 'ended') return;
    if (entry.state === 'stranger' && !this.#components.door.admit(entry.connection, entry.peer)) {
      return this.#fail(entry, 'refused', new Error('too many hosts of its address are admitted'));
    }
    entry.key = end.key;
    entry.certificate = end.certificate;
    this.#components.metrics.admission.inc({ result: 'admitted' });
    if (entry.state === 'stranger') {
      entry.state = 'admitted';
      entry.timer.cancel();
      const siblings = this.#ofPeer.get(entry.peer) ?? new Set();
      this.#ofPeer.set(entry.peer, siblings.add(entry));
      entry.outcome.resolve();
    }
    // The keys may have changed while this one was proved.
    if (this.#isStale(entry)) this.#renew(entry);
  }

  #onLate(entry: Entry): void {
    this.#fail(entry, 'timeout', new DeadlineError(`no admission within ${ADMISSION_MS} ms`));
  }

  /** Ends a connection. */
  #fail(entry: Entry, code: AdmissionError['code'], cause: unknown): void {
    if (entry.state === 'ended') return;
    const { connection, peer } = entry;
    const error = this.#end(entry, code, cause);
    this.#report(connection, error);
    if (connection.direction === 'inbound' && (code === 'wrong-key' || code === 'version')) {
      this.#components.door.banPeer(peer);
      this.#components.clock.setTimer(REFUSED_LINGER_MS, () => connection.abort(error));
    } else {
      connection.abort(error);
    }
  }

  /** Gives the connection up; each caller that waits for it gets the error. */
  #end(entry: Entry, code: AdmissionError['code'], cause: unknown): AdmissionError {
    const { peer } = entry;
    const error = failure(peer, code, cause);
    entry.state = 'ended';
    entry.timer.cancel();
    entry.outcome.reject(error);
    const siblings = this.#ofPeer.get(peer);
    if (siblings?.delete(entry) === true) {
      this.#components.door.part(entry.connection, peer);
      if (siblings.size === 0) {
        this.#ofPeer.delete(peer);
        this.#init.onPeerGone(peer);
      }
    }
    return error;
  }

  /**
   * Strangers could fill the log, so every failure of our own dials gets a warning, but hosts of
   * another version that dial us get at most one a minute.
   */
  #report({ direction, remoteAddr }: Connection, error: AdmissionError): void {
    if (this.#stopping.signal.aborted) return;
    const { logger, metrics } = this.#components;
    metrics.admission.inc({ result: error.code });
    const { peer, code } = error.detail;
    const fields = { peer, address: remoteAddr.toString(), result: code, error: error.message };
    if (direction === 'outbound') logger.warn(fields, 'a host that was dialled was not admitted');
    else if (code === 'version' && this.#mayWarnOfVersion()) {
      logger.warn(fields, 'a host that dialled was not admitted');
    } else logger.debug(fields, 'a host that dialled was not admitted');
  }

  #mayWarnOfVersion(): boolean {
    const nowMs = this.#components.clock.nowMs();
    if (nowMs < this.#versionToldMs + VERSION_TOLD_MS) return false;
    this.#versionToldMs = nowMs;
    return true;
  }

  /**
   * The valid keys. When they have changed, what was proved with one that is gone is proved anew.
   */
  #currentKeys(): readonly ClusterKey[] {
    const secrets = this.#init.clusterKeys();
    if (secrets === this.#secrets) return this.#keys;
    const { length } = secrets;
    assert(length >= 1 && length <= CLUSTER_KEYS_MAX, `${length} cluster keys are valid at once`);
    this.#secrets = secrets;
    this.#keys = secrets.map((secret) => clusterKey(this.#components.mac, secret));
    this.#components.metrics.clusterKeys.set({}, length);
    for (const entry of this.#entries.values()) if (this.#isStale(entry)) this.#renew(entry);
    return this.#keys;
  }

  #isStale({ state, key }: Entry): boolean {
    if (state !== 'admitted' || key === undefined) return false;
    return !this.#keys.some(({ id }) => bytesEqual(id, key.id));
  }

  /** By its turn the peer may have done it. */
  #renew(entry: Entry): void {
    void this.#renewals.run(async () => {
      if (!this.#stopping.signal.aborted && this.#isStale(entry)) await this.#prove(entry);
    });
  }

  #nextCheck(): Timer {
    return this.#components.clock.setTimer(CLUSTER_KEYS_CHECK_MS, () => {
      this.#currentKeys();
      this.#check = this.#nextCheck();
    });
  }
}

function peerIdOf(connection: Connection): PeerId {
  return peerId(connection.remotePeer.toString());
}

function failure(peer: PeerId, code: AdmissionError['code'], cause: unknown): AdmissionError {
  const text = `peer ${peer} was not admitted: ${code}, ${errorText(cause)}`;
  return new AdmissionError(text, { code, peer }, { cause });
}

function versionError(theirs: number): Error {
  return new Error(
    `it speaks version ${theirs} of the wire protocol, this agent version ${WIRE_VERSION}: ` +
      'run one release of Xylem on all hosts',
  );
}

function resultOf(error: unknown, entry: Entry): AdmissionError['code'] {
  if (error instanceof DeadlineError) return 'timeout';
  if (error instanceof WireError) return 'protocol';
  // A host that does not know the protocol does not belong to the cluster.
  if (error instanceof Error && error.name === 'UnsupportedProtocolError') return 'protocol';
  return hangUpResult(entry);
}

function hangUpResult({ connection }: Entry): AdmissionError['code'] {
  return connection.direction === 'outbound' ? 'refused' : 'protocol';
}
