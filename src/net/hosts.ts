import type { HostAddress } from '../tree/messages.ts';
import { defined } from '../util/assert.ts';
import type { ByteReader } from './byte-reader.ts';
import type { ByteWriter } from './byte-writer.ts';
import { badValue } from './errors.ts';
import { readList, readName, readPeer, writeList, writeName, writePeer } from './fields.ts';
import { ADDRESSES_MAX } from './limits.ts';

/** Different hosts in one message: what an index of 16 bits can name. */
const HOSTS_MAX = 65_535;

export function writeHost(writer: ByteWriter, host: HostAddress): void {
  writePeer(writer, host.peer);
  writeList(
    writer,
    { field: 'addresses', countMax: ADDRESSES_MAX, items: host.addresses },
    (address) => writeName(writer, 'address', address),
  );
}

export function readHost(reader: ByteReader): HostAddress {
  return {
    peer: readPeer(reader),
    addresses: readList(reader, 'addresses', ADDRESSES_MAX, () => readName(reader, 'address')),
  };
}

function keyOf(host: HostAddress): string {
  return JSON.stringify([host.peer, host.addresses]);
}

/**
 * The hosts of a message, each once, in the order in which the message first names them: the path of every stripe of every
 * layer ends at the same few hosts, so a join of 50 layers shrinks from hundreds of KiB to a few.
 */
export class HostTableWriter {
  readonly #indices = new Map<string, number>();
  readonly #hosts: HostAddress[] = [];

  add(host: HostAddress): void {
    const key = keyOf(host);
    if (this.#indices.has(key)) return;
    this.#indices.set(key, this.#hosts.length);
    this.#hosts.push(host);
  }

  indexOf(host: HostAddress): number {
    return defined(this.#indices.get(keyOf(host)), 'a host is added before it is named');
  }

  write(writer: ByteWriter): void {
    writeList(writer, { field: 'hosts', countMax: HOSTS_MAX, items: this.#hosts }, (host) =>
      writeHost(writer, host),
    );
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
    const hosts = readList(reader, 'hosts', HOSTS_MAX, () => readHost(reader));
    const distinct = new Set(hosts.map(keyOf)).size;
    if (distinct !== hosts.length) throw badValue('hosts', 'distinct', hosts.length - distinct);
    return new HostTableReader(hosts);
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
