import { request } from 'node:http';
import { describe, expect, it, onTestFinished } from 'vitest';
import { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import { StoreAdmin } from '../../../src/agent/admin/store-service.ts';
import { MemoryStore } from '../../../src/blockstore/memory-store.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { Failure, StatusTwin } from '../../kit/twins.ts';

/** A server that ends with the running test, with a store or without one. */
async function startServer(store?: StoreAdmin): Promise<string> {
  const server = new AdminServer(
    {
      status: new StatusTwin(),
      metrics: new PromMetrics({ processMetrics: false }),
      clock: new ManualClock(),
      logger: silentLogger,
      ...(store && { store }),
    },
    { listen: { host: '127.0.0.1', port: 0 } },
  );
  onTestFinished(() => server.stop());
  await server.start();
  return server.url;
}

describe('AdminServer store', () => {
  it('refuses changes that do not arrive at 127.0.0.1', async () => {
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
              host: 'evil.example',
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
      expect(status).toBe(403);
    }
  });

  it('answers 501 without a store', async () => {
    const base = await startServer();
    const response = await fetch(`${base}/api/v1/store`);
    expect(response.status).toBe(501);
  });
});
