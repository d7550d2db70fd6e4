import { describe, expect, it } from 'vitest';
import { parseDigest } from '../../../src/image/digest.ts';
import { newEntry, type Entry } from '../../../src/transfer/host/open-blob-entry.ts';
import { OpenBlobTable } from '../../../src/transfer/host/open-blob-table.ts';
import { defined } from '../../../src/util/assert.ts';

const init = { entriesMax: 4, stripesMax: 10, idleMs: 1_000, acceptMs: 1, staleMs: 1 };
const origin = { registry: 'r.example', repository: 'app' };

function entry(name: number, nowMs = 0): Entry<string> {
  const hex = name.toString(16).padStart(64, '0');
  const digest = defined(parseDigest(`sha256:${hex}`), 'a digest');
  return newEntry({ token: '', digest, origin, right: '' }, init, nowMs);
}

function share(shared: Entry<string>, sizeBytes: number): Entry<string> {
  shared.phase = 'shared';
  shared.blob = { digest: shared.digest, sizeBytes };
  return shared;
}

describe('OpenBlobTable', () => {
  it('closes the least recently used entry when there are too many', () => {
    const closed: string[] = [];
    const table = new OpenBlobTable<string>(init, ({ id }) => closed.push(id));
    const entries = [1, 2, 3, 4].map((name) => entry(name));
    for (const each of entries) table.add(each);
    table.use(defined(entries[0], 'the first'), 1);
    table.add(entry(5));
    expect(closed).toEqual([entries[1]?.id]);
    expect(table.size).toBe(4);
  });

  it('closes shared blobs of too many trees, and none that is waited for', () => {
    const closed: string[] = [];
    const table = new OpenBlobTable<string>(init, ({ id }) => closed.push(id));
    // A blob of 64 MiB has eight stripes.
    const [big, small, other] = [entry(1), entry(2), entry(3)];
    for (const each of [big, small, other]) table.add(each);
    table.changed(share(big, 64 * 2 ** 20));
    const { stripes } = big;
    expect(stripes).toBeGreaterThan(1);
    big.waiting.add({
      ...{ token: 'w', digest: big.digest, origin, right: '' },
      patientUntilMs: 0,
    });
    table.changed(share(small, 10));
    expect(closed).toEqual([]);
    table.changed(share(other, 64 * 2 ** 20));
    expect(closed).toEqual([small.id]);
    big.waiting.clear();
    table.changed(other);
    expect(closed).toEqual([small.id, big.id]);
    expect(big.stripes).toBe(0);
  });

  it('closes what nobody used for a while', () => {
    const closed: string[] = [];
    const table = new OpenBlobTable<string>(init, ({ id }) => closed.push(id));
    const [old, young] = [entry(1, 0), entry(2, 500)];
    for (const each of [old, young]) table.add(each);
    table.closeIdle(1_000);
    expect(closed).toEqual([old.id]);
  });
});
