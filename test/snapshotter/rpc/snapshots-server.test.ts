import { closeSync, existsSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import { listenUnix } from '../../../src/device/sockets.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { SnapshotsServer } from '../../../src/snapshotter/rpc/snapshots-server.ts';
import type { Snapshots } from '../../../src/snapshotter/snapshots.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { MemoryDevices } from '../kit/memory-devices.ts';
import {
  field,
  fieldsOf,
  labels,
  message,
  messagesAt,
  RawClient,
  textsAt,
  type Fields,
} from '../kit/raw-client.ts';
import { record } from '../kit/records.ts';
import { startSnapshotter } from '../kit/served-snapshotter.ts';

async function start() {
  const metrics = new PromMetrics({ processMetrics: false });
  const folder = tempFolder();
  const served = await startSnapshotter({ folder, devices: new MemoryDevices(folder), metrics });
  const client = new RawClient(served.socket);
  onTestFinished(() => client.close());
  return { ...served, client, metrics };
}

/** Each message of requests names the snapshotter first. */
const NAME = field(1, 'xylem');
const keyed = (key: string): Buffer => message(NAME, field(2, key));
const wanted = (key: string, parent = '', said = {}): Buffer =>
  message(NAME, field(2, key), field(3, parent), labels(4, said));

const OK = 0;
const NOT_FOUND = 5;
const ALREADY_EXISTS = 6;

function infoIn(fields: Fields) {
  const [info] = messagesAt(fields, 1);
  if (info === undefined) throw new Error('no info');
  const [[name = '', parent = ''] = [], [created] = [], [updated] = []] = [
    [...textsAt(info, 1), ...textsAt(info, 2)],
    messagesAt(info, 4),
    messagesAt(info, 5),
  ];
  const entries = messagesAt(info, 6).map((entry) => [textsAt(entry, 1)[0], textsAt(entry, 2)[0]]);
  return {
    ...{ name, parent, kind: info.get(3)?.[0], labels: Object.fromEntries(entries) as unknown },
    seconds: [created?.get(1)?.[0], updated?.get(1)?.[0]],
  };
}

describe('SnapshotsServer', () => {
  it('serves every method with the field numbers of the public API', async () => {
    const { client, folder } = await start();
    const nowSeconds = Math.floor(new SystemClock().wallMs() / 1000);
    const ask = async (method: string, request: Buffer): Promise<Fields> => {
      const { status, text, messages } = await client.call(method, request);
      expect([status, text]).toEqual([OK, 'OK']);
      return fieldsOf(messages[0]);
    };
    const [bind] = messagesAt(await ask('Prepare', wanted('ns/1/k', '', { a: 'x' })), 1);
    const files = join(folder, 'snapshots', '1', 'fs');
    expect([1, 2, 3, 4].map((number) => textsAt(bind as Fields, number))).toEqual([
      ...[['bind'], [files], []],
      ['rw', 'rbind'],
    ]);
    writeFileSync(join(files, 'f'), 'x'.repeat(5000));
    const usage = await ask('Usage', keyed('ns/1/k'));
    expect(usage.get(2)).toEqual([2]);
    expect(usage.get(1)?.[0]).toBeGreaterThanOrEqual(8192);
    const commit = message(NAME, field(2, 'ns/2/base'), field(3, 'ns/1/k'), labels(4, { b: 'y' }));
    expect((await ask('Commit', commit)).size).toBe(0);
    const info = infoIn(await ask('Stat', keyed('ns/2/base')));
    expect(info).toMatchObject({ name: 'ns/2/base', parent: '', kind: 3, labels: { b: 'y' } });
    for (const seconds of info.seconds) expect(seconds).toBeGreaterThanOrEqual(nowSeconds);
    await ask('View', wanted('ns/3/v', 'ns/2/base'));
    const [view] = messagesAt(await ask('Mounts', keyed('ns/3/v')), 1);
    expect(textsAt(view as Fields, 4)).toEqual(['ro', 'rbind']);
    const update = message(
      ...[NAME, field(2, message(field(1, 'ns/3/v'), labels(6, { c: 'z', d: 'w' })))],
      field(3, field(1, 'labels.c')),
    );
    const updated = infoIn(await ask('Update', update));
    expect(updated).toMatchObject({ parent: 'ns/2/base', kind: 1, labels: { c: 'z' } });
    const list = await ask('List', message(NAME, field(2, 'name==x'), field(2, 'kind==view')));
    expect(infoIn(list).name).toBe('ns/3/v');
    expect((await ask('Remove', keyed('ns/3/v'))).size).toBe(0);
    await ask('Remove', keyed('ns/2/base'));
    await ask('Cleanup', NAME);
    expect(readdirSync(join(folder, 'snapshots'))).toEqual([]);
  });

  it('answers with the codes that containerd knows, and a reason', async () => {
    const { client, metrics } = await start();
    await client.call('Prepare', wanted('k'));
    const refused: [number, string, Buffer, string][] = [
      [NOT_FOUND, 'Stat', keyed('x'), 'snapshot x does not exist'],
      [NOT_FOUND, 'Remove', keyed('x'), 'snapshot x does not exist'],
      [NOT_FOUND, 'Prepare', wanted('y', 'x'), 'snapshot x does not exist'],
      [ALREADY_EXISTS, 'Prepare', wanted('k'), 'snapshot k exists already'],
      [3, 'Prepare', wanted('y', 'k'), 'the parent k is not committed but active'],
      [3, 'List', message(NAME, field(2, 'name=')), 'has no operator'],
    ];
    for (const [code, method, request, why] of refused) {
      const { status, text, messages } = await client.call(method, request);
      expect([method, status, messages]).toEqual([method, code, []]);
      expect(text).toContain(why);
    }
    const unknown = await client.call('Restore', NAME);
    expect(unknown.status).toBe(12);
    expect(await metrics.text()).toContain(
      'xylem_snapshotter_operations_total{operation="prepare",code="ALREADY_EXISTS"} 1',
    );
    expect(await metrics.text()).toContain('xylem_snapshots{kind="active"} 1');
  });

  it('List streams thousands', async () => {
    const folder = tempFolder();
    const records = Array.from({ length: 3000 }, (_, i) =>
      record({ id: i + 1, name: `name-${i}`, labels: { text: 'x'.repeat(1000) } }),
    );
    const shared = { clock: new SystemClock(), logger: silentLogger };
    const metrics = new PromMetrics({ processMetrics: false });
    const snapshots = { list: () => records } as Partial<Snapshots> as Snapshots;
    const socketPath = join(folder, 'sock');
    const server = new SnapshotsServer({ ...shared, metrics, snapshots }, { socketPath });
    onTestFinished(() => server.stop());
    await server.start();
    const client = new RawClient(socketPath);
    onTestFinished(() => client.close());
    const { status, messages } = await client.call('List', NAME);
    expect(status).toBe(OK);
    const names = messages
      .flatMap((each) => messagesAt(fieldsOf(each), 1))
      .map((info) => textsAt(info, 1)[0]);
    expect(names).toEqual(records.map(({ name }) => name));
  });

  it('a call that its client cancels ends the work', async () => {
    const folder = tempFolder();
    const begun = Promise.withResolvers<AbortSignal>();
    const ended = Promise.withResolvers<void>();
    const snapshots: Partial<Snapshots> = {
      mounts: (_, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            reject(signal.reason as Error);
            ended.resolve();
          });
          begun.resolve(signal);
        }),
    };
    const metrics = new PromMetrics({ processMetrics: false });
    const socketPath = join(folder, 'sock');
    const server = new SnapshotsServer(
      {
        ...{ snapshots: snapshots as Snapshots, clock: new SystemClock() },
        ...{ logger: silentLogger, metrics },
      },
      { socketPath },
    );
    onTestFinished(() => server.stop());
    await server.start();
    const client = new RawClient(socketPath);
    onTestFinished(() => client.close());
    const giving = new AbortController();
    const called = client.call('Mounts', keyed('k'), { signal: giving.signal });
    await begun.promise;
    giving.abort();
    await Promise.allSettled([called, ended.promise]);
    expect(await metrics.text()).toContain('operation="mounts",code="CANCELLED"} 1');
  });

  it('listens where its own user alone may, replaces a stale socket, and leaves none', async () => {
    const { socket, folder, stop } = await start();
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    expect(readdirSync(folder).filter((name) => name.startsWith('.'))).toEqual([]);
    await stop();
    expect(existsSync(socket)).toBe(false);
    closeSync(listenUnix(socket)); // As a process that is killed leaves it.
    expect(existsSync(socket)).toBe(true);
    const again = await startSnapshotter({ folder });
    const client = new RawClient(again.socket);
    onTestFinished(() => client.close());
    expect((await client.call('List', NAME)).status).toBe(OK);
  });
});
