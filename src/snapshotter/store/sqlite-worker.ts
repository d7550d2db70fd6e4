/** The thread that waits for the disk in the place of a SqliteStore. */
import { DatabaseSync } from 'node:sqlite';
import { parentPort } from 'node:worker_threads';
import { defined } from '../../util/assert.ts';
import { errorText } from '../../util/errors.ts';
import { SpareRoom } from './spare-room.ts';
import type { StoreAnswer, StoreRequest } from './sqlite-store.ts';

/** Version of the tables, in the file's `user_version`. */
const VERSION = 1;

/** A batch is durable when its commit returns, also when the power fails then. */
const SETTINGS = 'PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000';

/** What SQLite says of a full disk (SQLITE_FULL). */
const FULL = 13;

const TABLES = `
  CREATE TABLE snapshots (id INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
  CREATE TABLE counter (next_id INTEGER NOT NULL) STRICT;
  INSERT INTO counter VALUES (1);
  PRAGMA user_version = ${VERSION};
`;

const port = defined(parentPort, 'it runs in a thread');
let database: DatabaseSync | undefined;
let spare: SpareRoom | undefined;

port.on('message', (request: StoreRequest) => {
  try {
    port.postMessage(answerTo(request));
  } catch (error) {
    port.postMessage({ error: errorText(error) } satisfies StoreAnswer);
  }
  if (request.do === 'close') port.close();
});

function answerTo(request: StoreRequest): StoreAnswer {
  switch (request.do) {
    case 'open':
      spare = new SpareRoom({ path: `${request.path}-spare` });
      // An open takes room too, for the files beside the database.
      spare.giveUp();
      database = opened(request.path);
      spare.keep();
      return contentOf(database);
    case 'write':
      writeOrMakeRoom(defined(database, 'it is open'), request);
      spare?.keep();
      break;
    case 'close':
      database?.close();
      database = undefined;
      break;
  }
  return { records: [], nextId: 0 };
}

function opened(path: string): DatabaseSync {
  const made = new DatabaseSync(path);
  try {
    made.exec(SETTINGS);
    const version = numberOf(made, 'PRAGMA user_version');
    const check = made.prepare('PRAGMA quick_check(1)').get() ?? {};
    const [found] = Object.values(check);
    if (found !== 'ok') throw new Error(`it is damaged (${String(found)})`);
    if (version === 0) inTransaction(made, () => made.exec(TABLES));
    else if (version !== VERSION) {
      throw new Error(`it has version ${version}, and this program reads ${VERSION}`);
    }
    return made;
  } catch (error) {
    made.close();
    throw error;
  }
}

function contentOf(from: DatabaseSync): StoreAnswer {
  const rows = from.prepare('SELECT record FROM snapshots ORDER BY id').all();
  const records = rows.map(({ record }) => String(record));
  return { records, nextId: numberOf(from, 'SELECT next_id FROM counter') };
}

type WriteRequest = Extract<StoreRequest, { readonly do: 'write' }>;

function writeOrMakeRoom(to: DatabaseSync, request: WriteRequest): void {
  try {
    write(to, request);
  } catch (error) {
    const isFull = (error as { errcode?: unknown }).errcode === FULL;
    if (!isFull || request.deletes.length === 0) throw error;
    spare?.giveUp();
    write(to, request);
  }
}

function write(to: DatabaseSync, request: WriteRequest): void {
  inTransaction(to, () => {
    const put = to.prepare('INSERT OR REPLACE INTO snapshots VALUES (?, ?)');
    for (const [id, record] of request.puts) put.run(id, record);
    const remove = to.prepare('DELETE FROM snapshots WHERE id = ?');
    for (const id of request.deletes) remove.run(id);
    to.prepare('UPDATE counter SET next_id = ?').run(request.nextId);
  });
}

function inTransaction(within: DatabaseSync, work: () => void): void {
  within.exec('BEGIN IMMEDIATE');
  try {
    work();
    within.exec('COMMIT');
  } catch (error) {
    if (within.isTransaction) within.exec('ROLLBACK');
    throw error;
  }
}

function numberOf(from: DatabaseSync, query: string): number {
  return Number(Object.values(from.prepare(query).get() ?? {})[0]);
}
