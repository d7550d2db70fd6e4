import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { askAgent } from '../../../src/agent/admin/admin-client.ts';
import { DIGEST } from '../../kit/twins.ts';

let answer: { status: number; text: string };
let asked: { request: string; body: string }[];
let server: Server;
let base: string;

beforeEach(async () => {
  asked = [];
  server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (piece) => (body += String(piece)));
    request.on('end', () => {
      asked.push({ request: `${request.method} ${request.url}`, body });
      response.writeHead(answer.status).end(answer.text);
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

describe('askAgent()', () => {
  it('puts each field where the route has it', async () => {
    answer = { status: 200, text: '{"trees":[],"hosts":[]}' };
    expect(await askAgent({ admin: `${base}/` }, 'tree', { digest: DIGEST })).toEqual({
      trees: [],
      hosts: [],
    });
    await askAgent({ admin: base }, 'tree');
    answer = { status: 200, text: '{"dir":"/a"}' };
    expect((await askAgent({ admin: base }, 'unmount', { dir: '/a' })).dir).toBe('/a');
    answer = { status: 404, text: '{"error":"no such preheat","code":"not-found"}' };
    await expect(askAgent({ admin: base }, 'preheatStatus', { id: '5' })).rejects.toThrow(
      'no such preheat',
    );
    expect(asked).toEqual([
      { request: `GET /api/v1/tree?digest=${encodeURIComponent(DIGEST)}`, body: '' },
      { request: 'GET /api/v1/tree', body: '' },
      { request: 'DELETE /api/v1/mounts', body: '{"dir":"/a"}' },
      { request: 'GET /api/v1/preheat/5', body: '' },
    ]);
  });

  it('passes on unknown fields, and text unchanged', async () => {
    answer = { status: 200, text: '{"trees":[],"hosts":[],"later":1}' };
    expect(await askAgent({ admin: base }, 'tree')).toEqual({ trees: [], hosts: [], later: 1 });
    answer = { status: 200, text: 'xylem_up 1\n' };
    expect(await askAgent({ admin: base }, 'metrics')).toBe('xylem_up 1\n');
  });

  it('refuses an answer of another shape, and names the field', async () => {
    answer = { status: 200, text: '{"dir":5}' };
    await expect(askAgent({ admin: base }, 'unmount', { dir: '/a' })).rejects.toMatchObject({
      code: 'admin-protocol',
      message: expect.stringContaining('(dir)') as string,
    });
  });
});
