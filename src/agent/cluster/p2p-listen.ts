import { once } from 'node:events';
import { createServer } from 'node:net';
import { listenError } from '../../edge/http/listen.ts';

/** A host without IPv6 has no such sockets, or no such address. */
const NO_FAMILY: ReadonlySet<string> = new Set(['EAFNOSUPPORT', 'EADDRNOTAVAIL']);

/**
 * The addresses of `p2p.listen` that this host has: `/ip6/::` is left out on a host without IPv6
 * where others are named beside it. Rejects with ListenError when another one cannot be listened
 * on: libp2p's own error is a page of stacks.
 */
export async function usableListen(listen: readonly string[]): Promise<string[]> {
  const usable: string[] = [];
  for (const address of listen) {
    const [, family, host, , port] = address.split('/');
    try {
      const server = createServer();
      server.listen({ host, port: Number(port), ipv6Only: family === 'ip6' });
      await once(server, 'listening');
      server.close();
      await once(server, 'close');
      usable.push(address);
    } catch (cause) {
      const code = String((cause as NodeJS.ErrnoException).code);
      const isSpare = family === 'ip6' && host === '::' && listen.length > 1;
      if (!isSpare || !NO_FAMILY.has(code)) throw listenError(address, 'p2p.listen', cause);
    }
  }
  return usable;
}
