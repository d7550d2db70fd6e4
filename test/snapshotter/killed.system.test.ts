import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { tempFolder } from '../kit/temp-folder.ts';
import {
  field,
  fieldsOf,
  labels,
  message,
  messagesAt,
  RawClient,
  textsAt,
  type RawAnswer,
} from './kit/raw-client.ts';

const PROGRAM = fileURLToPath(new URL('./kit/snapshotter-child.ts', import.meta.url));
const NAME = field(1, 'xylem');
const OK = 0;
const ALREADY_EXISTS = 6;

async function startChild(folder: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['--no-warnings', PROGRAM, folder], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [said] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  expect(said.toString()).toBe('ready\n');
  return child;
}

/** What is known of snapshots by their names: `maybe` when a call about it had no answer. */
class Known {
  readonly kinds = new Map<string, number | 'maybe'>();
  /** Whether the server is gone. */
  isOver = false;
  readonly #client: RawClient;

  constructor(client: RawClient) {
    this.#client = client;
  }

  /** Calls, and notes what the answer means for these snapshots. */
  async ask(
    method: string,
    request: Buffer,
    after: Readonly<Record<string, number | undefined>>,
    good = OK,
  ): Promise<void> {
    if (this.isOver) return;
    const names = Object.keys(after);
    const before = names.map((name) => this.kinds.get(name));
    for (const name of names) this.kinds.set(name, 'maybe');
    const answer = await this.#client.call(method, request).catch((): RawAnswer | undefined => {
      return undefined;
    });
    this.isOver = answer === undefined || answer.text === '';
    if (answer === undefined || this.isOver) return;
    for (const [i, name] of names.entries()) {
      const kind = answer.status === good ? after[name] : before[i];
      if (kind === undefined) this.kinds.delete(name);
      else this.kinds.set(name, kind);
    }
  }
}

const [VIEW, ACTIVE, COMMITTED] = [1, 2, 3];

/** Pulls an image of block layers, and makes, commits and removes containers of it, forever. */
async function use(known: Known, worker: string): Promise<void> {
  const prepare = (key: string, parent: string, said = {}): Buffer =>
    message(NAME, field(2, key), field(3, parent), labels(4, said));
  const keyed = (key: string): Buffer => message(NAME, field(2, key));
  for (let round = 0; !known.isOver; round++) {
    const id = `${worker}-${round}`;
    const digest = `sha256:${createHash('sha256').update(id).digest('hex')}`;
    const said = {
      'containerd.io/snapshot.ref': digest,
      'containerd.io/snapshot/cri.image-ref': 'reg.example/app:1',
      'containerd.io/snapshot/overlaybd/blob-digest': digest,
      'containerd.io/snapshot/overlaybd/blob-size': '1000',
    };
    const remote = { [digest]: COMMITTED };
    await known.ask('Prepare', prepare(`ns/${id}`, '', said), remote, ALREADY_EXISTS);
    await known.ask('Prepare', prepare(`c-${id}`, digest), { [`c-${id}`]: ACTIVE });
    await known.ask('View', prepare(`v-${id}`, digest), { [`v-${id}`]: VIEW });
    const commit = message(NAME, field(2, `done-${id}`), field(3, `c-${id}`));
    if (round % 2 === 0) {
      const after = { [`c-${id}`]: undefined, [`done-${id}`]: COMMITTED };
      await known.ask('Commit', commit, after);
    } else await known.ask('Remove', keyed(`c-${id}`), { [`c-${id}`]: undefined });
    await known.ask('Remove', keyed(`v-${id}`), { [`v-${id}`]: undefined });
  }
}

describe('Snapshotter, killed', () => {
  it('keeps what it answered, and leaves no folder of what it did not', {
    timeout: 240_000,
  }, async () => {
    const waits = fc.sample(fc.integer({ min: 5, max: 400 }), { numRuns: 5, seed: 7 });
    const folder = tempFolder();
    const kinds = new Map<string, number | 'maybe'>();
    for (const [i, waitMs] of waits.entries()) {
      const child = await startChild(folder);
      const client = new RawClient(join(folder, 'snapshotter.sock'));
      onTestFinished(() => client.close());
      const known = new Known(client);
      const using = Promise.all([`a${i}`, `b${i}`, `c${i}`].map((worker) => use(known, worker)));
      await sleep(waitMs);
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
      client.close();
      await using;
      for (const [name, kind] of known.kinds) kinds.set(name, kind);
      const found = await snapshotsIn(folder);
      for (const [name, kind] of kinds) {
        if (kind !== 'maybe') expect([name, found.get(name)]).toEqual([name, kind]);
        else if (found.has(name)) kinds.set(name, found.get(name) ?? 0);
        else kinds.delete(name);
      }
      for (const name of found.keys()) expect(kinds.has(name), name).toBe(true);
    }
    expect(kinds.size).toBeGreaterThan(10);
  });
});

/** Kinds by name of all snapshots, as another process finds them, and checks of their folders. */
async function snapshotsIn(folder: string): Promise<ReadonlyMap<string, number>> {
  const child = await startChild(folder);
  const client = new RawClient(join(folder, 'snapshotter.sock'));
  const { messages } = await client.call('List', NAME);
  const infos = messages.flatMap((each) => messagesAt(fieldsOf(each), 1));
  const found = new Map(infos.map((info) => [textsAt(info, 1)[0] ?? '', Number(info.get(3)?.[0])]));
  await client.call('Cleanup', NAME);
  const withFolders = [...found].filter(([name]) => !name.startsWith('sha256:'));
  const folders = readdirSync(join(folder, 'snapshots'));
  expect(folders).toHaveLength(withFolders.length);
  for (const name of folders) {
    for (const inner of ['fs', 'work']) {
      expect(existsSync(join(folder, 'snapshots', name, inner)), name).toBe(true);
    }
  }
  expect(readdirSync(join(folder, 'removed'))).toEqual([]);
  client.close();
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  expect(await exited).toEqual([0, null]);
  return found;
}
