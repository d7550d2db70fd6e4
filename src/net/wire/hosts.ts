import type { HostAddress } from '../../tree/messages.ts';
import { defined } from '../../util/assert.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { list, struct, type Codec } from './codec.ts';
import { badValue } from './errors.ts';
import { address, peer } from './fields.ts';
import { ADDRESSES_MAX } from '../limits.ts';

/** Different hosts in one message: what an index of 16 bits can name. */
const HOSTS_MAX = 65_535;

/** The properties of a host, for messages that say more of it. */
export const hostFields = { peer, addresses: list(address, ADDRESSES_MAX) };

const hosts = list(struct<HostAddress>(hostFields), HOSTS_MAX);

function isSame(one: readonly string[] | undefined, other: readonly string[]): boolean {
  return one?.length === other.length && one.every((address, i) => address === other[i]);
}

/**
 * A value behind a table of the hosts that it names, each once, in the order in which it first
 * names them: the path of every stripe of every layer ends at the same few hosts, so a join of 50
 * layers shrinks from hundreds of KiB to a few.
 *
 * `of` makes the codec of the value from that of its hosts; `named` lists them in the order of the
 * wire.
 */
export function behindHosts<T>(
  of: (host: Codec<HostAddress>) => Codec<T>,
  named: (value: T) => Iterable<HostAddress>,
): Codec<T> {
  return {
    write: (writer, value, field) => {
      const table = new HostTable();
      for (const host of named(value)) table.add(host);
      hosts.write(writer, table.hosts, 'hosts');
      of(table.index).write(writer, value, field);
    },
    read: (reader, field) => {
      const found = hosts.read(reader, 'hosts');
      const distinct = new Set(found.map(keyOf)).size;
      if (distinct !== found.length) throw badValue('hosts', 'distinct', found.length - distinct);
      const table = new HostTable(found);
      const value = of(table.index).read(reader, field);
      table.end();
      return value;
    },
  };
}

function keyOf(host: HostAddress): string {
  return JSON.stringify([host.peer, host.addresses]);
}

/** The table of one message; reading takes only the one form that writing makes. */
class HostTable {
  /** Each once, in the order in which they came. */
  readonly hosts: HostAddress[];
  /** Most are the same object each time that they are named. */
  readonly #indices = new Map<HostAddress, number>();
  /**
   * By peer: one that moved is named with its old addresses too, until all have heard of the new
   * ones.
   */
  readonly #ofPeer = new Map<PeerId, number[]>();
  /** How many of them the value has named while it is read. */
  #named = 0;

  /** A host in the value: its index (u16). */
  readonly index: Codec<HostAddress> = {
    write: (writer, host) => writer.u16(defined(this.#indices.get(host), 'a host of the table')),
    read: (reader) => this.#host(reader.u16()),
  };

  constructor(known: readonly HostAddress[] = []) {
    this.hosts = [...known];
  }

  add(host: HostAddress): void {
    if (this.#indices.has(host)) return;
    const ofPeer = this.#ofPeer.get(host.peer) ?? [];
    let index = ofPeer.find((at) => isSame(this.hosts[at]?.addresses, host.addresses));
    if (index === undefined) {
      index = this.hosts.push(host) - 1;
      this.#ofPeer.set(host.peer, [...ofPeer, index]);
    }
    this.#indices.set(host, index);
  }

  /** Throws when a host of the table was not named. */
  end(): void {
    if (this.#named === this.hosts.length) return;
    throw badValue('hosts', 'all named', this.hosts.length - this.#named);
  }

  #host(index: number): HostAddress {
    const host = this.hosts[index];
    if (host === undefined || index > this.#named) {
      const last = Math.min(this.#named, this.hosts.length - 1);
      throw badValue('host', `an index up to ${last}`, index);
    }
    if (index === this.#named) this.#named++;
    return host;
  }
}
