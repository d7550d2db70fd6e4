import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { usableListen } from '../../../src/agent/cluster/p2p-listen.ts';

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

describe('usableListen()', () => {
  it('usableListen() are all that can be listened on, and leave them free', async () => {
    const listen = [`/ip4/127.0.0.1/tcp/${await freePort()}`];
    expect(await usableListen(listen)).toEqual(listen);
    expect(await usableListen(listen)).toEqual(listen);
  });

  it('usableListen() says in one line that a port is in use', async () => {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    onTestFinished(() => void server.close());
    const { port } = server.address() as AddressInfo;
    await expect(usableListen([`/ip4/127.0.0.1/tcp/${port}`])).rejects.toThrow(
      `cannot listen on /ip4/127.0.0.1/tcp/${port} (p2p.listen): another process listens there; ` +
        'stop it, or choose another address',
    );
  });

  it('usableListen() says that an address is not of this host', async () => {
    const listen = [`/ip4/192.0.2.77/tcp/${await freePort()}`];
    await expect(usableListen(listen)).rejects.toThrow('(p2p.listen): this host has no such');
  });
});
