import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readTar } from '../../../src/convert/tar/read-tar.ts';
import type { TarEntry } from '../../../src/convert/tar/tar-entry.ts';
import { KIB } from '../../../src/util/bytes.ts';
import {
  bytesOf,
  END,
  gnuLong,
  gnuMember,
  header,
  joined,
  member,
  padded,
  pax,
  paxMember,
  putChecksum,
  putNumber,
  putText,
} from '../../kit/tar-encoder.ts';
import { chunksOf, readAll, wholeFile, type ReadEntry } from './kit.ts';

const entriesOf = (...parts: readonly Uint8Array[]): Promise<readonly ReadEntry[]> =>
  readAll(chunksOf(joined(...parts)));

async function entryOf(...parts: readonly Uint8Array[]): Promise<TarEntry> {
  const [first, ...others] = await entriesOf(...parts, END);
  expect(others).toEqual([]);
  if (first === undefined) throw new Error('no entry');
  return first.entry;
}

const time = (seconds: number, nanoseconds = 0): TarEntry['mtime'] => ({ seconds, nanoseconds });

describe('readTar() reads headers of', () => {
  it('v7, with a directory by its name', async () => {
    const entries = await entriesOf(
      member({ path: 'd/', type: '\0', magic: '', mode: 0o40755 }),
      member({ path: 'd/f', type: '\0', magic: '', mtime: 1 }, bytesOf('abc')),
      END,
    );
    expect(entries.map(({ entry }) => [entry.type, entry.path, entry.mode])).toEqual([
      ['directory', 'd/', 0o755],
      ['file', 'd/f', 0o644],
    ]);
  });

  it('ustar, with a prefix and a device', async () => {
    const fields = { path: 'null', prefix: 'dev', type: '3', deviceMajor: 1, deviceMinor: 3 };
    const { type, path, deviceMajor, deviceMinor } = await entryOf(member(fields));
    expect([type, path, deviceMajor, deviceMinor]).toEqual(['character-device', 'dev/null', 1, 3]);
  });

  it('star, with a shorter prefix and times', async () => {
    const change = (block: Uint8Array): void => {
      putNumber(block, 476, 12, 7);
      putNumber(block, 488, 12, 8);
      putText(block, 508, 'tar\0');
    };
    const { path, atime, ctime } = await entryOf(member({ path: 'f', prefix: 'p', change }));
    expect([path, atime, ctime]).toEqual(['p/f', time(7), time(8)]);
  });

  it('GNU, with times in the place of a prefix', async () => {
    const change = (block: Uint8Array): void => {
      putNumber(block, 345, 12, 7);
      putNumber(block, 357, 12, -8);
    };
    const read = await entryOf(member({ path: 'f', magic: 'ustar  \0', change }));
    expect([read.path, read.atime, read.ctime]).toEqual(['f', time(7), time(-8)]);
  });

  it('old Go, which put a prefix into headers of GNU', async () => {
    const read = await entryOf(member({ path: 'f', prefix: 'usr/share/x', magic: 'ustar  \0' }));
    expect([read.path, read.atime]).toEqual(['usr/share/x/f', undefined]);
  });

  it('numbers in octal among spaces and NULs, and in base 256', async () => {
    const octal = (text: string) =>
      entryOf(member({ path: 'f', change: (block) => putText(block, 108, text) }));
    expect((await octal('    17 \0')).uid).toBe(0o17);
    expect((await octal('\0\0\x0017\0\0\0')).uid).toBe(0o17);
    expect((await octal('00000017')).uid).toBe(0o17);
    expect((await octal('        ')).uid).toBe(0);
    expect((await entryOf(member({ path: 'f', uid: 2 ** 32 - 1 }))).uid).toBe(2 ** 32 - 1);
    const old = await entryOf(member({ path: 'f', mtime: -1 }));
    expect(old.mtime).toEqual(time(-1));
    expect((await entryOf(member({ path: 'f', mtime: -(2 ** 40) }))).mtime).toEqual(
      time(-(2 ** 40)),
    );
  });

  it('writers that sum signed bytes', async () => {
    const block = header({ path: 'caf\xe9' });
    putChecksum(block, true);
    expect((await entryOf(block)).path).toBe('caf\xe9');
  });

  it('contiguous files, links with a size but no data, and volume labels', async () => {
    const entries = await entriesOf(
      member({ path: 'label', type: 'V' }),
      member({ path: 'f', type: '7' }, bytesOf('x')),
      header({ path: 'h', type: '1', linkTarget: 'f', size: 1 }),
      member({ path: 'd', type: 'D', magic: 'ustar  \0' }, bytesOf('Yf\0\0')),
      END,
    );
    expect(
      entries.map(({ entry, data }) => [entry.type, entry.path, entry.sizeBytes, data.length]),
    ).toEqual([
      ['file', 'f', 1, 1],
      ['hardlink', 'h', 0, 0],
      ['directory', 'd', 0, 0],
    ]);
  });
});

describe('readTar() reads PAX records', () => {
  const f = member({ path: 'short' }, bytesOf('abc'));

  it('of names, ids, times and sizes', async () => {
    const records = [
      ['path', 'a=b\n\xff'],
      ['uid', '4294967295'],
      ['gid', '5'],
      ['mtime', '-1.5'],
      ['atime', '12.123456789123'],
      ['ctime', '-3'],
      ['size', '3'],
      ['hdrcharset', 'BINARY'],
      ['comment', ''],
    ] as const;
    expect(
      await entryOf(pax(records), member({ path: 'short', size: 0 }), padded(bytesOf('abc'))),
    ).toMatchObject({
      path: 'a=b\n\xff',
      uid: 2 ** 32 - 1,
      gid: 5,
      mtime: time(-2, 500_000_000),
      atime: time(12, 123_456_789),
      ctime: time(-3),
      sizeBytes: 3,
    });
  });

  it('of extended attributes with any bytes', async () => {
    const value = '\0=\n12 path=x\n\xff';
    const read = await entryOf(
      pax([
        ['SCHILY.xattr.security.capability', value],
        ['SCHILY.xattr.user.a%3Db%25', ''],
        ['LIBARCHIVE.xattr.user.%C3%BC', 'AP8'],
      ]),
      f,
    );
    expect(read.path).toBe('short');
    expect([...read.xattrs]).toEqual([
      ['security.capability', bytesOf(value)],
      ['user.a=b%', new Uint8Array(0)],
      ['user.\xc3\xbc', new Uint8Array([0, 255])],
    ]);
  });

  it('into attributes that hold no chunk', async () => {
    const tar = joined(pax([['SCHILY.xattr.user.a', 'value']]), f, END);
    const [read] = await readAll(chunksOf(Buffer.from(tar)));
    expect(read?.entry.xattrs.get('user.a')).toEqual(bytesOf('value'));
    expect(read?.entry.xattrs.get('user.a')?.buffer.byteLength).toBe(5);
  });

  it('of all entries, replaced by those of one and by later ones', async () => {
    const entries = await entriesOf(
      pax(
        [
          ['uid', '7'],
          ['gid', '7'],
          ['SCHILY.xattr.user.a', '1'],
          ['comment', 'x'],
        ],
        'g',
      ),
      f,
      pax([
        ['uid', '8'],
        ['gid', ''],
      ]),
      f,
      pax(
        [
          ['uid', ''],
          ['gid', '9'],
        ],
        'g',
      ),
      f,
      END,
    );
    expect(entries.map(({ entry }) => [entry.uid, entry.gid, entry.xattrs.size])).toEqual([
      [7, 7, 1],
      [8, 7, 1],
      [0, 9, 1],
    ]);
  });

  it('beside long names of GNU, which go first', async () => {
    const name = 'n'.repeat(300);
    const target = 't'.repeat(4096);
    const read = await entryOf(
      gnuLong('K', target),
      gnuLong('L', name),
      pax([['path', 'p']]),
      member({ path: 'short', type: '2', linkTarget: 'short' }),
    );
    expect([read.path, read.linkTarget]).toEqual([name, target]);
  });
});

describe('readTar() reads sparse files', () => {
  const data = bytesOf('abcdefg');
  const file = bytesOf('\0\0abc\0defg\0\0');
  const runs = [
    { offset: 2, length: 3 },
    { offset: 6, length: 4 },
  ];
  const plain = member({ path: 'GNUSparseFile/f' }, data);

  it.each([
    [
      '0.0',
      [
        pax([
          ['GNU.sparse.size', '12'],
          ['GNU.sparse.numblocks', '3'],
          ['GNU.sparse.offset', '2'],
          ['GNU.sparse.numbytes', '3'],
          ['GNU.sparse.offset', '6'],
          ['GNU.sparse.numbytes', '4'],
          ['GNU.sparse.offset', '12'],
          ['GNU.sparse.numbytes', '0'],
          ['path', 'f'],
        ]),
        plain,
      ],
    ],
    [
      '0.1',
      [
        pax([
          ['GNU.sparse.size', '12'],
          ['GNU.sparse.numblocks', '2'],
          ['GNU.sparse.map', '2,3,6,4'],
          ['GNU.sparse.name', 'f'],
        ]),
        plain,
      ],
    ],
    [
      '1.0',
      [
        pax([
          ['GNU.sparse.major', '1'],
          ['GNU.sparse.minor', '0'],
          ['GNU.sparse.realsize', '12'],
          ['GNU.sparse.name', 'f'],
        ]),
        member({ path: 'GNUSparseFile/f' }, joined(padded(bytesOf('2\n2\n3\n6\n4\n')), data)),
      ],
    ],
  ])('of version %s', async (_, parts) => {
    const [read] = await entriesOf(...parts, END);
    expect(read?.entry).toMatchObject({ path: 'f', sizeBytes: 12, dataRuns: runs });
    expect(read && wholeFile(read)).toEqual(file);
  });

  it('without any data', async () => {
    const sparse = { ...plainEntry('f'), sizeBytes: 2 ** 40 };
    const nothing = new Uint8Array(0);
    expect(await entriesOf(paxMember(sparse, nothing), gnuMember(sparse, nothing), END)).toEqual([
      { entry: sparse, data: nothing },
      { entry: sparse, data: nothing },
    ]);
  });
});

const plainEntry = (path: string): TarEntry => ({
  type: 'file',
  path,
  linkTarget: '',
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: time(0),
  deviceMajor: 0,
  deviceMinor: 0,
  xattrs: new Map(),
  sizeBytes: 0,
  dataRuns: [],
});

describe('readTar() ends', () => {
  const a = member({ path: 'a' }, bytesOf('abc'));
  const zero = END.subarray(512);

  it.each([
    ['by two blocks of zeros', [END]],
    ['by one', [zero]],
    ['by the end of the stream', []],
    ['before anything behind the end', [END, bytesOf('rest'), a]],
  ])('%s', async (_, tail) => {
    expect((await entriesOf(a, ...tail)).map(({ entry }) => entry.path)).toEqual(['a']);
  });

  it('at once, of nothing', async () => {
    expect(await entriesOf()).toEqual([]);
  });

  it('only when all of the stream was read', async () => {
    let read = 0;
    const tar = joined(a, END, new Uint8Array(100_000));
    async function* source(): AsyncGenerator<Uint8Array> {
      for await (const chunk of chunksOf(tar, 1000)) {
        read += chunk.length;
        yield chunk;
      }
    }
    await readAll(source());
    expect(read).toBe(tar.length);
  });

  it('its source when its reader stops, or an error stops it', async () => {
    let ends = 0;
    async function* source(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
      try {
        yield* chunksOf(bytes, 1);
      } finally {
        ends++;
      }
    }
    for await (const { entry } of readTar(source(joined(a, a, END)))) if (entry.path) break;
    expect(ends).toBe(1);
    await expect(readAll(source(joined(a, bytesOf('no tar'.repeat(100)))))).rejects.toThrow();
    expect(ends).toBe(2);
  });

  it('with the reason of its signal, also while its source hangs', async () => {
    const controller = new AbortController();
    async function* source(): AsyncGenerator<Uint8Array> {
      yield a;
      await new Promise(() => {});
    }
    const items = readTar(source(), { signal: controller.signal });
    await items.next();
    const next = items.next();
    controller.abort(new Error('enough'));
    await expect(next).rejects.toThrow('enough');
  });
});

describe('readTar() hands on', () => {
  it('the chunks that came in, without a copy', async () => {
    const tar = joined(member({ path: 'a' }, new Uint8Array(3000)), END);
    for await (const { content } of readTar(chunksOf(tar, 1000))) {
      for await (const piece of content) expect(piece.buffer).toBe(tar.buffer);
    }
  });

  it('the next entry when content is left unread, or read in part', async () => {
    const big = member({ path: 'big' }, new Uint8Array(3000));
    const paths: string[] = [];
    for await (const { entry, content } of readTar(chunksOf(joined(big, big, big, END), 700))) {
      paths.push(entry.path);
      if (paths.length === 2) for await (const piece of content) if (piece.length > 0) break;
    }
    expect(paths).toEqual(['big', 'big', 'big']);
  });

  it('no content of an entry after the next one was asked for', async () => {
    const items = readTar(chunksOf(joined(member({ path: 'a' }, bytesOf('abc')), END)));
    const first = await items.next();
    await items.next();
    const content = first.value?.content[Symbol.asyncIterator]();
    await expect(content?.next()).rejects.toThrow('read too late');
  });

  it('the same for every boundary of chunks', async () => {
    const sparse = {
      ...plainEntry('sparse'),
      sizeBytes: 500,
      dataRuns: Array.from({ length: 30 }, (_, i) => ({ offset: 10 * i, length: 2 })),
    };
    const tar = joined(
      paxMember(
        { ...plainEntry('p'.repeat(200)), sizeBytes: 3, dataRuns: [{ offset: 0, length: 3 }] },
        bytesOf('abc'),
      ),
      gnuMember(sparse, new Uint8Array(60).fill(7)),
      paxMember(sparse, new Uint8Array(60).fill(7)),
      gnuMember(
        { ...plainEntry('g'.repeat(200)), type: 'symlink', linkTarget: 't' },
        new Uint8Array(0),
      ),
      END,
    );
    const whole = await readAll(chunksOf(tar));
    expect(whole.length).toBe(4);
    for (let at = 1; at < tar.length; at++) {
      const read = await readAll(chunksOf(tar, at, tar.length));
      if (!isDeepStrictEqual(read, whole)) expect(read, `cut at ${at}`).toEqual(whole);
    }
    expect(await readAll(chunksOf(tar, 1))).toEqual(whole);
  });
});

describe('readTar() refuses', () => {
  const refused = async (reason: string, ...parts: readonly Uint8Array[]): Promise<void> => {
    await expect(entriesOf(...parts)).rejects.toMatchObject({
      code: 'tar',
      message: expect.stringContaining(reason) as string,
    });
  };
  const f = member({ path: 'f' });
  const sparse = (size: string, map: string, data: Uint8Array): readonly Uint8Array[] => [
    pax([
      ['GNU.sparse.size', size],
      ['GNU.sparse.map', map],
    ]),
    member({ path: 'f' }, data),
  ];

  it('an archive that ends anywhere else', async () => {
    const tar = joined(pax([['uid', '1']]), member({ path: 'f' }, bytesOf('abc')));
    const dataEnd = tar.length - 512 + 3;
    for (let end = 1; end < dataEnd; end++) {
      await refused('ends within it', tar.subarray(0, end));
    }
  });

  it('no archive that only does not fill its last block', async () => {
    const tar = joined(member({ path: 'e' }), member({ path: 'f' }, bytesOf('abc')));
    for (let end = tar.length - 512 + 3; end <= tar.length; end++) {
      expect(await entriesOf(tar.subarray(0, end))).toHaveLength(2);
    }
  });

  it('headers of an entry that does not follow', async () => {
    await refused('ends within it', pax([['uid', '1']]), END);
  });

  it('every wrong bit of a header', async () => {
    const good = header({ path: 'dir/f', mode: 0o644 });
    for (let bit = 0; bit < 8 * 148; bit += 5) {
      const bad = good.slice();
      bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      await refused('checksum', bad, END);
    }
  });

  it('negative, unsafe and senseless numbers', async () => {
    await refused('its size', member({ path: 'f', size: -1 }));
    await refused('its size', member({ path: 'f', size: 2 ** 60 }));
    await refused('its uid', member({ path: 'f', uid: -1 }));
    await refused('its gid', member({ path: 'f', gid: 2 ** 32 }));
    const text = (block: Uint8Array): void => putText(block, 124, '0000009');
    await refused('is no number', member({ path: 'f', change: text }));
    for (const size of ['-1', '9007199254740992', '1e3', '0x10', ' 1', '99999999999999999999']) {
      await refused('size', pax([['size', size]]), f);
    }
    for (const mtime of ['', '1.5.5', '.5', '-', 'now', '99999999999999999999']) {
      if (mtime !== '') await refused('mtime', pax([['mtime', mtime]]), f);
    }
  });

  it('lengths of PAX records that lie', async () => {
    for (const body of [
      '5 a=b\n',
      '7 a=b\n',
      '0 a=b\n',
      'a=b\n',
      '99999999999 a=b\n',
      '6 a=b',
      '-6 a=b\n',
      '5 ab\n',
      '5 =b\n',
      '6 a=bc',
      '3 \n',
      '\0\0',
    ]) {
      await refused('PAX record', member({ type: 'x' }, bytesOf(body)), f);
    }
  });

  it('more than a mebibyte of headers of one entry, before it holds them', async () => {
    const reason = 'headers have more than';
    await refused(reason, header({ type: 'x', size: 2 ** 31 }));
    await refused(reason, header({ type: 'g', size: 2 ** 31 }));
    await refused(reason, header({ type: 'L', size: 2 ** 31 }));
    await refused(reason, header({ type: 'V', size: 2 ** 31 }));
    await refused(reason, ...Array.from({ length: 1100 }, () => pax([['comment', 'x']])));
    await refused(reason, ...Array.from({ length: 1100 }, () => pax([['comment', 'x']], 'g')));
    const more = new Uint8Array(512).fill(1, 504, 505);
    const change = (block: Uint8Array): void => void (block[482] = 1);
    const endless = Array.from({ length: 2100 }, () => more);
    await refused(reason, member({ type: 'S', magic: 'ustar  \0', change }), ...endless);
    const records = [
      ['GNU.sparse.major', '1'],
      ['GNU.sparse.minor', '0'],
      ['GNU.sparse.realsize', '9'],
    ] as const;
    await refused(
      reason,
      pax(records),
      header({ size: 2 ** 30 }),
      new Uint8Array(1100 * KIB).fill(0x30),
    );
  });

  it('global records that grow', async () => {
    const one = (i: number): Uint8Array => pax([[`SCHILY.xattr.user.${i}`, '']], 'g');
    const parts = Array.from({ length: 1100 }, (_, i) => [one(i), f]).flat();
    await refused('global records', ...parts);
  });

  it('sparse maps that overlap, run backwards, go beyond the file or miss its data', async () => {
    await refused('overlap', ...sparse('20', '0,3,2,3', bytesOf('abcdef')));
    await refused('overlap', ...sparse('20', '8,3,0,3', bytesOf('abcdef')));
    await refused('beyond its size', ...sparse('20', '18,3', bytesOf('abc')));
    await refused('beyond its size', ...sparse('20', '0,9007199254740991', bytesOf('abc')));
    await refused('does not describe', ...sparse('20', '0,3', bytesOf('abcd')));
    await refused('does not describe', ...sparse('20', '0,3', bytesOf('ab')));
    await refused('without a length', ...sparse('20', '0,3,4', bytesOf('abc')));
    await refused('sparse map', ...sparse('20', '0,-3', bytesOf('abc')));
    await refused(
      'its size',
      pax([['GNU.sparse.map', '0,3']]),
      member({ path: 'f' }, bytesOf('abc')),
    );
    await refused(
      'take turns',
      pax([
        ['GNU.sparse.offset', '0'],
        ['GNU.sparse.offset', '0'],
      ]),
      f,
    );
    await refused(
      'for 5 ranges',
      pax([
        ['GNU.sparse.numblocks', '5'],
        ['GNU.sparse.size', '9'],
      ]),
      f,
    );
    await refused(
      'unknown version',
      pax([
        ['GNU.sparse.major', '2'],
        ['GNU.sparse.size', '9'],
      ]),
      f,
    );
    await refused('Solaris', pax([['SUN.holesdata', ' 0 1']]), f);
  });

  it('names that are too long or have a NUL', async () => {
    await refused('4097 bytes', pax([['path', 'p'.repeat(4097)]]), f);
    await refused('4097 bytes', gnuLong('L', 'p'.repeat(4097)), f);
    await refused('4097 bytes', pax([['linkpath', 'p'.repeat(4097)]]), member({ type: '2' }));
    await refused('NUL', pax([['path', 'a\0b']]), f);
    await refused('NUL', gnuLong('L', 'a\0b'), f);
  });

  it('extended attributes beyond what Linux takes', async () => {
    const xattr = (name: string, value: string): Uint8Array =>
      pax([[`SCHILY.xattr.${name}`, value]]);
    await refused('extended attribute', xattr('n'.repeat(256), ''), f);
    await refused('extended attribute', xattr('', ''), f);
    await refused('extended attribute', xattr('a\0', ''), f);
    await refused('65537 bytes', xattr('user.a', 'v'.repeat(65_537)), f);
    await refused('base64', pax([['LIBARCHIVE.xattr.user.a', '?']]), f);
  });

  it('types that it does not know, and parts of other volumes', async () => {
    await refused('another volume', member({ path: 'f', type: 'M', magic: 'ustar  \0' }));
    await refused('not supported', member({ path: 'f', type: 'N', magic: 'ustar  \0' }));
    await refused('"Z" is not supported', member({ path: 'f', type: 'Z' }));
  });

  it('too many entries and bytes', async () => {
    const tar = joined(f, f, f, END);
    const read = (limits: { entryCountMax: number; archiveBytesMax: number }) =>
      readAll(chunksOf(tar, 512), { limits });
    const bytes = tar.length;
    await expect(read({ entryCountMax: 2, archiveBytesMax: bytes })).rejects.toMatchObject({
      code: 'too-large',
    });
    await expect(read({ entryCountMax: 3, archiveBytesMax: bytes - 1 })).rejects.toMatchObject({
      code: 'too-large',
    });
    expect((await read({ entryCountMax: 3, archiveBytesMax: bytes })).length).toBe(3);
  });

  it('with the entry and its place, printable', async () => {
    const bad = member({ path: 'a\x1b[2J', type: 'Z' });
    await expect(entriesOf(f, bad, END)).rejects.toMatchObject({
      message:
        'cannot read "a\\u001b[2J" of the tar archive, at byte 512: its type "Z" is not supported',
      detail: { code: 'tar', path: 'a\x1b[2J', offset: 512 },
    });
  });
});

const name = (max: number): fc.Arbitrary<string> =>
  fc
    .array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: max })
    .map((codes) => String.fromCharCode(...codes));
const id = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const anyTime = fc.record({
  seconds: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
  nanoseconds: fc.integer({ min: 0, max: 999_999_999 }),
});
const xattrs = fc.uniqueArray(
  fc.tuple(
    name(60).filter((text) => !/[=%]/.test(text)),
    fc.uint8Array({ maxLength: 100 }),
  ),
  { maxLength: 4, selector: ([key]) => key },
);

const anyFile = fc
  .record({
    ranges: fc.array(fc.tuple(fc.nat(3), fc.nat(700)), { maxLength: 50 }),
    tail: fc.nat(3),
  })
  .map(({ ranges, tail }) => {
    let end = 0;
    const runs = ranges.map(([gap, length]) => {
      const offset = end + gap;
      end = offset + length;
      return { offset, length };
    });
    return { dataRuns: runs.filter(({ length }) => length > 0), sizeBytes: end + tail };
  })
  .map(({ dataRuns, sizeBytes }) => {
    const dataBytes = dataRuns.reduce((sum, { length }) => sum + length, 0);
    const isWhole = dataBytes === sizeBytes;
    const whole = sizeBytes === 0 ? [] : [{ offset: 0, length: sizeBytes }];
    return {
      entry: { type: 'file' as const, sizeBytes, dataRuns: isWhole ? whole : dataRuns },
      data: Uint8Array.from({ length: dataBytes }, (_, i) => i),
    };
  });
const anyOther = fc
  .constantFrom('directory', 'symlink', 'hardlink', 'character-device', 'block-device', 'fifo')
  .chain((type) => {
    const isLink = type === 'symlink' || type === 'hardlink';
    const device = type.endsWith('device') ? fc.nat(2 ** 31 - 1) : fc.constant(0);
    return fc.record({
      type: fc.constant(type),
      linkTarget: isLink ? name(300) : fc.constant(''),
      deviceMajor: device,
      deviceMinor: device,
    });
  })
  .map((entry) => ({ entry, data: new Uint8Array(0) }));

const anyEntry = fc
  .record({
    special: fc.oneof(anyFile, anyOther),
    dialect: fc.constantFrom('pax', 'gnu'),
    path: name(300),
    mode: fc.nat(0o7777),
    uid: id,
    gid: id,
    mtime: anyTime,
    atime: fc.option(anyTime, { nil: undefined }),
    xattrs,
  })
  .map(({ special, dialect, atime, mtime, xattrs: pairs, ...fields }) => {
    const common = { ...plainEntry(''), ...fields, ...special.entry } as TarEntry;
    const entry: TarEntry =
      dialect === 'pax'
        ? { ...common, mtime, ...(atime && { atime }), xattrs: new Map(pairs) }
        : { ...common, mtime: time(mtime.seconds) };
    const encode = dialect === 'pax' ? paxMember : gnuMember;
    return { entry, data: special.data, bytes: encode(entry, special.data) };
  });

describe('readTar()', () => {
  it('reads what an encoder wrote, however it comes', async () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 2000 }), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(fc.array(anyEntry, { maxLength: 6 }), sizes, async (entries, chunkSizes) => {
        const tar = joined(...entries.map(({ bytes }) => bytes), END);
        const read = await readAll(chunksOf(tar, ...chunkSizes));
        expect(read).toEqual(entries.map(({ entry, data }) => ({ entry, data })));
      }),
    );
  });

  it('reads or refuses whatever a bit turns an archive into', async () => {
    const tar = joined(
      paxMember(
        { ...plainEntry('p'), xattrs: new Map([['user.a', bytesOf('b')]]) },
        new Uint8Array(0),
      ),
      gnuMember(
        { ...plainEntry('g'.repeat(101)), sizeBytes: 9, dataRuns: [{ offset: 3, length: 2 }] },
        bytesOf('ab'),
      ),
      END,
    );
    await fc.assert(
      fc.asyncProperty(fc.nat(tar.length - 1), fc.nat(255), async (at, byte) => {
        const bad = tar.slice();
        bad[at] = byte;
        const result = await readAll(chunksOf(bad)).catch((error: unknown) => error);
        if (!Array.isArray(result)) expect(result).toMatchObject({ code: 'tar' });
      }),
    );
  });
});
