import { describe, expect, it } from 'vitest';
import { BlobAuthority } from '../../../src/edge/access/authority.ts';
import { UrlProbe } from '../../../src/edge/access/url-probe.ts';
import { Ways } from '../../../src/edge/access/ways.ts';
import type { BlobOrigin, BlobRef } from '../../../src/image/block.ts';
import type { Digest } from '../../../src/image/digest.ts';
import type { BlobStat } from '../../../src/transfer/contracts/origin.ts';
import { BelievedSources } from '../../../src/registry/sources.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import type { OpenReply } from '../../../src/tree/messages.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { DIGEST } from '../../kit/twins.ts';
import { FakeStorage } from '../kit/fake-storage.ts';

const APP = { registry: 'r.example', repository: 'app' };
const OTHER = { registry: 'r.example', repository: 'other' };
const PUBLIC: BlobStat = { sizeBytes: 5, isPublic: true };
const MINUTES_5 = 300_000;
const HOURS_24 = 24 * 3_600_000;

type Answer = BlobStat | OriginError['code'] | 'silent';

const NOTHING_LENT = { sizeAt: () => Promise.reject(new Error('no URL is lent here')) };

/** A root whose registry gives these answers, one after the other. */
function makeRoot(answers: Answer[], probe: Pick<UrlProbe, 'sizeAt'> = NOTHING_LENT) {
  const clock = new ManualClock();
  const ways = new Ways({ clock });
  const asked: string[] = [];
  const found: BlobRef[] = [];
  const stat = async (_digest: Digest, { repository }: typeof APP, signal: AbortSignal) => {
    asked.push(repository);
    const answer = answers.shift() ?? 'unavailable';
    if (typeof answer === 'object') return answer;
    if (answer !== 'silent') throw new OriginError('no', { code: answer });
    return new Promise<never>((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason as Error));
    });
  };
  const authority = new BlobAuthority({
    stat,
    sources: new BelievedSources({
      registries: [{ host: 'r.example', storage: ['https://s.example/'] }],
      defaults: false,
    }),
    ways,
    probe,
    opaque: { open: () => Promise.reject(new Error('no opaque blob is asked for here')) },
    hash: new NodeHash(),
    clock,
    logger: silentLogger,
    onFound: async (blob) => void found.push(blob),
  });
  const open = (origin: BlobOrigin = APP): Promise<OpenReply> =>
    authority.open({ digest: DIGEST, origin }, undefined);
  return { authority, open, clock, asked, found, ways };
}

const opened = ({ sizeBytes, isPublic }: BlobStat) => ({
  outcome: 'open',
  key: DIGEST,
  isBelieved: true,
  sizeBytes,
  isPublic,
});

describe('BlobAuthority.open()', () => {
  it('asks the source once for all, and again after five minutes', async () => {
    const { open, clock, asked, found } = makeRoot([PUBLIC, { sizeBytes: 5, isPublic: false }]);
    expect(await Promise.all([open(), open()])).toEqual([opened(PUBLIC), opened(PUBLIC)]);
    clock.advance(MINUTES_5 - 1);
    expect(await open()).toEqual(opened(PUBLIC));
    expect([asked.length, found.length]).toEqual([1, 1]);
    clock.advance(1);
    expect(await open()).toEqual(opened({ sizeBytes: 5, isPublic: false }));
    expect(asked).toHaveLength(2);
  });

  it.each(['unavailable', 'protocol'] as const)(
    'gives the older answer, a day at most, while the registry says %s',
    async (code) => {
      const { open, clock, asked } = makeRoot([PUBLIC, code, code, code]);
      await open();
      for (const askedCount of [2, 3]) {
        clock.advance(MINUTES_5);
        expect(await open()).toEqual(opened(PUBLIC));
        expect(await open()).toEqual(opened(PUBLIC));
        expect(asked).toHaveLength(askedCount);
      }
      clock.advance(HOURS_24 - 2 * MINUTES_5);
      expect(await open()).toMatchObject({ outcome: 'unavailable' });
    },
  );

  it.each([
    ['unavailable', 1_000],
    ['protocol', 5_000],
    ['not-found', 5_000],
  ] as const)('asks again after %s: in %i ms', async (code, againMs) => {
    const { open, clock, asked } = makeRoot([code, PUBLIC]);
    expect(await open()).not.toMatchObject({ outcome: 'open' });
    clock.advance(againMs - 1);
    expect(await open()).not.toMatchObject({ outcome: 'open' });
    expect(asked).toHaveLength(1);
    clock.advance(1);
    expect(await open()).toEqual(opened(PUBLIC));
  });

  it('gives the older answer after a second of silence, and asks again', async () => {
    const later = { sizeBytes: 6, isPublic: false };
    const { open, clock, asked } = makeRoot([PUBLIC, 'silent', later]);
    await open();
    clock.advance(MINUTES_5);
    const reply = open();
    await Promise.resolve();
    clock.advance(1_000);
    expect(await reply).toEqual(opened(PUBLIC));
    expect(asked).toHaveLength(2);
    clock.advance(14_000);
    await new Promise(setImmediate);
    clock.advance(5_000);
    expect(await open()).toEqual(opened(later));
  });

  it.each(['not-found', 'refused'] as const)(
    'ends an older answer with %s of its source, for good',
    async (code) => {
      const { open, clock } = makeRoot([PUBLIC, code, 'unavailable']);
      await open();
      clock.advance(MINUTES_5);
      expect(await open()).not.toMatchObject({ outcome: 'open' });
      clock.advance(5_000);
      expect(await open()).toMatchObject({ outcome: 'unavailable' });
    },
  );

  it('asks each repository itself, whatever a hostile client names', async () => {
    const hidden = { sizeBytes: 5, isPublic: false };
    const { open, clock, asked, found } = makeRoot([
      PUBLIC,
      'not-found',
      'refused',
      hidden,
      PUBLIC,
    ]);
    await open();
    // Only a right of the client's own can open it there now.
    for (const _ of [1, 2]) expect(await open(OTHER)).toEqual(opened(hidden));
    clock.advance(5_000);
    expect(await open(OTHER)).toEqual(opened(hidden));
    expect(found).toHaveLength(1);
    clock.advance(5_000);
    for (const _ of [1, 2]) expect(await open(OTHER)).toEqual(opened(hidden));
    for (const _ of [1, 2]) {
      expect(await open({ ...APP, repository: 'third' })).toEqual(opened(PUBLIC));
    }
    expect(await open()).toEqual(opened(PUBLIC));
    expect(asked).toEqual(['app', 'other', 'other', 'other', 'third']);
    expect(found).toHaveLength(3);
  });

  it('calls nothing public at a storage that is public in a repository', async () => {
    const { open, asked } = makeRoot([PUBLIC]);
    await open();
    const storage = { registry: 's.example', repository: '', storage: 'https://s.example/' };
    expect(await open(storage)).toEqual(opened({ sizeBytes: 5, isPublic: false }));
    expect(asked).toHaveLength(1);
  });

  it('takes no other size from another repository', async () => {
    const { open, clock, found } = makeRoot([PUBLIC, { sizeBytes: 6, isPublic: true }]);
    await open();
    expect(await open(OTHER)).toEqual(opened({ sizeBytes: 5, isPublic: false }));
    expect(await open()).toEqual(opened(PUBLIC));
    expect(found).toHaveLength(1);
    clock.advance(MINUTES_5);
    expect(await open()).toEqual(opened(PUBLIC));
  });

  it('waits a second for a repository that is silent, as of a hostile client', async () => {
    const { open, clock } = makeRoot([PUBLIC, 'silent']);
    await open();
    const reply = open(OTHER);
    await Promise.resolve();
    clock.advance(1_000);
    expect(await reply).toEqual(opened({ sizeBytes: 5, isPublic: false }));
    expect(await open()).toEqual(opened(PUBLIC));
  });

  it('keeps an older answer when another repository has not got the blob', async () => {
    const { open, clock } = makeRoot([PUBLIC, 'not-found', 'unavailable']);
    await open();
    clock.advance(MINUTES_5);
    expect(await open(OTHER)).toMatchObject({ outcome: 'not-found' });
    expect(await open()).toEqual(opened(PUBLIC));
  });

  it('keeps calling public, a day at most, what only the agent can ask about now', async () => {
    const untold = { sizeBytes: 5, isPublic: undefined };
    const { open, clock } = makeRoot([untold, PUBLIC, untold, untold]);
    expect(await open()).toEqual(opened({ sizeBytes: 5, isPublic: false }));
    clock.advance(MINUTES_5);
    expect(await open()).toEqual(opened(PUBLIC));
    clock.advance(MINUTES_5);
    expect(await open()).toEqual(opened(PUBLIC));
    clock.advance(HOURS_24);
    expect(await open()).toEqual(opened({ sizeBytes: 5, isPublic: false }));
  });
});

describe('BlobAuthority.forget()', () => {
  it('drops a size that proved wrong: it does not come back', async () => {
    const { authority, open, clock, found } = makeRoot([
      PUBLIC,
      'unavailable',
      {
        sizeBytes: 6,
        isPublic: true,
      },
    ]);
    await open();
    authority.forget(DIGEST);
    expect(await open()).toMatchObject({ outcome: 'unavailable' });
    clock.advance(5_000);
    expect(await open()).toEqual(opened({ sizeBytes: 6, isPublic: true }));
    expect(found.map(({ sizeBytes }) => sizeBytes)).toEqual([5, 6]);
  });
});

describe('BlobAuthority.open() by lent URLs', () => {
  const AT = 'https://s.example/';
  const OBJECT = `${AT}sha256/${DIGEST.slice(7, 9)}/${DIGEST.slice(7)}/data`;
  const request = (signer: string) => ({
    digest: DIGEST,
    origin: { registry: 's.example', repository: '', storage: AT },
    url: `${OBJECT}?sig=${signer}`,
  });

  function makeLender(status: number) {
    const storage = new FakeStorage();
    storage.objects.set(OBJECT, { bytes: new Uint8Array(5) });
    storage.instead = ({ url }) => (url.includes('forged') ? { status } : undefined);
    const { authority, ways } = makeRoot([], new UrlProbe({ urls: storage }));
    const open = async (signer: string): Promise<string> =>
      (await authority.open(request(signer), signer as PeerId)).outcome;
    return { open, storage, ways };
  }

  it.each([403, 400, 503])(
    'asks again by a URL that came while one of an attacker was asked about (%i)',
    async (status) => {
      const { open, storage, ways } = makeLender(status);
      const signers = ['forged', 'forged too', 'good', 'better'];
      const replies = await Promise.all(signers.map(open));
      expect(replies).toEqual(['no-way', 'open', 'open', 'open']);
      expect(storage.asked).toHaveLength(3);
      expect(ways.of(DIGEST).map(({ lender }) => lender)).toEqual(['better', 'good']);
    },
  );
});
