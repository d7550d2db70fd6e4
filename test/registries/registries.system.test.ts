import { expect, test } from 'vitest';
import { withEndings } from '../kit/endings.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { SERVER_KINDS } from './kinds.ts';
import { rig } from './rig.ts';

/** A few of the kinds: `npm run registries` has them all. */
const KINDS = [
  'sound',
  'HEAD of a blob is 401, also with a token',
  'all requests redirect to a registry with tokens',
  'parts without Content-Range',
  'Range is ignored',
  'blobs say text/html',
];

describeWith('registries as they are', [needs.root, needs.program('containerd')], () => {
  test.each(KINDS)('an image comes by every way from a registry of the kind: %s', async (name) => {
    const kind = SERVER_KINDS.find((each) => each.name === name);
    expect(kind).toBeDefined();
    if (kind === undefined) return;
    const row = await withEndings(async (atEnd) => (await rig(atEnd))(kind));
    expect(row.past).toEqual([]);
    expect(row.cells.map(({ way, outcome }) => `${way}: ${outcome}`)).toEqual([
      'mirror: ok',
      'prefix: ok',
      'preheat: ok',
    ]);
  });
});
