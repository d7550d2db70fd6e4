import type { HostAddress } from '../../tree/messages.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { ByteReader } from './byte-reader.ts';
import type { ByteWriter } from './byte-writer.ts';
import { list, struct } from './codec.ts';
import { badValue } from './errors.ts';
import { name, peer } from './fields.ts';
import { ADDRESSES_MAX } from '../limits.ts';

/** Different hosts in one message: what an index of 16 bits can name. */
const HOSTS_MAX = 65_535;

/** The properties of a host, for messages that say more of it. */
export const hostFields = { peer, addresses: list(name, ADDRESSES_MAX) };

const hosts = list(struct<HostAddress>(hostFields), HOSTS_MAX);

function isSame(one: readonly string[] | undefined, other: readonly string[]): boolean {
  return one?.length === other.length && one.every((address, i) => address === other[i]);
}

function keyOf(host: HostAddress): string {
  return JSON.stringify([host.peer, host.addresses]);
}

/**
 * The hosts of a message, each once, in the order in which the message first names them: the path of every stripe of every
 * layer ends at the same few hosts, so a join of 50 layers shrinks from hundreds of KiB to a few.
 */
export class HostTableWriter {
  /** Most are the same object each time that they are named. */
  readonly #indices = new Map<HostAddress, number>();
  /** By peer: one that moved is named with its old addresses too, until all have heard of the new ones. */
  readonly #ofPeer = new Map<PeerId, number[]>();
  readonly #hosts: HostAddress[] = [];

  /** Index of the host, which is new or known. */
  add(host: HostAddress): number {
    return this.#indices.get(host) ?? this.#addObject(host);
  }

  write(writer: ByteWriter): void {
    hosts.write(writer, this.#hosts, 'hosts');
  }

  #addObject(host: HostAddress): number {
    const ofPeer = this.#ofPeer.get(host.peer) ?? [];
    let index = ofPeer.find((at) => isSame(this.#hosts[at]?.addresses, host.addresses));
    if (index === undefined) {
      index = this.#hosts.push(host) - 1;
      this.#ofPeer.set(host.peer, [...ofPeer, index]);
    }
    this.#indices.set(host, index);
    return index;
  }
}

/** Reads such a table; takes only the one form that the writer makes. */
export class HostTableReader {
  readonly #hosts: readonly HostAddress[];
  #named = 0;

  private constructor(hosts: readonly HostAddress[]) {
    this.#hosts = hosts;
  }

  static read(reader: ByteReader): HostTableReader {
    const found = hosts.read(reader, 'hosts');
    const distinct = new Set(found.map(keyOf)).size;
    if (distinct !== found.length) throw badValue('hosts', 'distinct', found.length - distinct);
    return new HostTableReader(found);
  }

  host(index: number): HostAddress {
    const host = this.#hosts[index];
    if (host === undefined || index > this.#named) {
      throw badValue(
        'host',
        `an index up to ${Math.min(this.#named, this.#hosts.length - 1)}`,
        index,
      );
    }
    if (index === this.#named) this.#named++;
    return host;
  }

  /** Throws when a host of the table was not named. */
  end(): void {
    if (this.#named === this.#hosts.length) return;
    throw badValue('hosts', 'all named', this.#hosts.length - this.#named);
  }
}
