import { request } from 'node:http';
import { describe, expect, it, onTestFinished } from 'vitest';
import { StoreAdmin } from '../../../src/agent/admin/store-service.ts';
import { MemoryStore } from '../../../src/blockstore/memory-store.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { Failure } from '../../kit/twins.ts';
import { adminServer, BEARER } from '../kit/admin.ts';

/** A server that ends with the running test, with a store or without one. */
async function startServer(store?: StoreAdmin): Promise<string> {
  const { server } = adminServer(tempFolder(), store && { store });
  onTestFinished(() => server.stop());
  await server.start();
  return server.url;
}

describe('AdminServer store', () => {
  it('refuses changes over TCP without a token, also from this host', async () => {
    const store = new MemoryStore();
    const resolve = () => Promise.reject(new Failure('not-found'));
    const { port } = new URL(await startServer(new StoreAdmin({ store, resolve })));
    for (const [method, path] of [
      ['POST', 'pins'],
      ['DELETE', 'pins'],
      ['POST', 'gc'],
    ] as const) {
      const status = await new Promise((resolve, reject) => {
        const sent = request(
          {
            port,
            host: '127.0.0.1',
            path: `/api/v1/store/${path}`,
            method,
            headers: {
              'content-type': 'application/json',
              'content-length': 2,
            },
          },
          (response) => {
            response.resume();
            resolve(response.statusCode);
          },
        );
        sent.on('error', reject);
        sent.end('{}');
      });
      expect(status).toBe(401);
    }
  });

  it('answers 501 without a store', async () => {
    const base = await startServer();
    const response = await fetch(`${base}/api/v1/store`, { headers: BEARER });
    expect(response.status).toBe(501);
  });
});
