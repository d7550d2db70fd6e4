import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { memoryDisk, type ReadOnlyDisk } from '../../../src/device/disk.ts';
import { listenUnix, socketPair } from '../../../src/device/sockets.ts';
import { KIB, MIB } from '../../../src/util/bytes.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { itServesDisks, type Backend } from '../kit/backend-contract.ts';
import { NbdClient, text, u32 } from '../kit/nbd-client.ts';
import { nbdServer, serveNbd } from '../kit/nbd-service.ts';
import { testDisk } from '../kit/test-disk.ts';

const [WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS] = [1, 2, 3, 4, 5, 6, 7];
const [EPERM, EIO, EINVAL] = [1, 5, 22];
const [DF, REQ_ONE] = [4, 8];
const SIZE = 4 * MIB;
const BYTES = sampleBytes(SIZE, 3);

const NAMES: Readonly<Record<number, string>> = { 1: 'EPERM', 5: 'EIO', 22: 'EINVAL' };

/** The contract's view of a server through the client of the tests. */
function backend(structured: boolean): Backend {
  return async (disk) => {
    const { server, path } = await serveNbd({ '': disk });
    const client = await NbdClient.enter(path, '', { structured });
    onTestFinished(() => client.close());
    return {
      sizeBytes: client.sizeBytes,
      read: (offset, length) =>
        client.read(offset, length).catch((error: Error & { errno?: number }) => {
          throw new Error(NAMES[error.errno ?? 0] ?? error.message);
        }),
      write: async () => {
        const data = Buffer.alloc(512);
        const { error } = await client.command(WRITE ?? 1, { offset: 0, length: 512, data });
        return NAMES[error] ?? 'none';
      },
      stop: () => server.close(),
    };
  };
}

describe('NbdServer, with structured replies,', () => itServesDisks(backend(true)));
describe('NbdServer, with simple replies,', () => itServesDisks(backend(false)));

async function connected(
  disk: ReadOnlyDisk,
  options: { structured?: boolean } = {},
): Promise<NbdClient> {
  const { path } = await serveNbd({ '': disk });
  const client = await NbdClient.enter(path, '', options);
  onTestFinished(() => client.close());
  return client;
}

describe('NbdServer', () => {
  it('says what a device can do', async () => {
    // has flags, read-only, flush, multi-conn, cache; with structured replies also DF
    expect((await connected(memoryDisk(BYTES), { structured: false })).exportFlags).toBe(0x507);
    expect((await connected(memoryDisk(BYTES))).exportFlags).toBe(0x587);
  });

  it('refuses what would change the device, skips its data, and goes on', async () => {
    for (const structured of [true, false]) {
      const client = await connected(memoryDisk(BYTES), { structured });
      const data = Buffer.alloc(3 * MIB, 0x25);
      const wrong = [
        client.command(WRITE ?? 0, { length: data.length, data }),
        client.command(WRITE ?? 0, { length: 0 }),
        client.command(TRIM ?? 0, { length: 4096 }),
        client.command(ZEROES ?? 0, { length: 4096 }),
      ];
      const got = client.read(4096, 512);
      expect((await Promise.all(wrong)).map(({ error }) => error)).toEqual(Array(4).fill(EPERM));
      expect(Buffer.compare(await got, BYTES.subarray(4096, 4608))).toBe(0);
    }
  });

  it('refuses commands, flags and ranges that it does not know', async () => {
    for (const structured of [true, false]) {
      const client = await connected(memoryDisk(BYTES), { structured });
      const wrong = [
        client.command(99, { length: 512 }),
        client.command(0, { length: 512, flags: 1 }),
        client.command(0, { length: 512, flags: structured ? REQ_ONE : DF }),
        client.command(0, { length: 0 }),
        client.command(0, { offset: SIZE - 1, length: 2 }),
        client.command(0, { offset: 2 ** 52, length: 512 }),
        client.command(0, { offset: 0, length: 2 ** 32 - 1 }),
        client.command(CACHE ?? 0, { offset: SIZE, length: 1 }),
        client.command(FLUSH ?? 0, { flags: 1 }),
      ];
      const errors = (await Promise.all(wrong)).map(({ error }) => error);
      expect(errors).toEqual(Array(wrong.length).fill(EINVAL));
      expect((await client.command(FLUSH ?? 0)).error).toBe(0);
    }
  });

  it('sends what it can of a long read, and says where the rest fails', async () => {
    const disk = testDisk(BYTES);
    disk.bad = { from: MIB + 300 * KIB, to: MIB + 301 * KIB };
    const client = await connected(disk);
    const { error, errorOffsets, data } = await client.command(0, { offset: 100, length: 3 * MIB });
    expect(error).toBe(EIO);
    expect(errorOffsets).toEqual([MIB + 256 * KIB]);
    expect(data.length).toBeGreaterThan(0);
    for (const { offset, bytes } of data) {
      expect(Buffer.compare(bytes, BYTES.subarray(offset, offset + bytes.length))).toBe(0);
    }
  });

  it('stops asking the disk for a long read once parts of it fail', async () => {
    const bytes = sampleBytes(32 * MIB, 9);
    let asked = 0;
    const client = await connected({
      sizeBytes: bytes.length,
      readSync: () => false,
      read: () => {
        asked++;
        return Promise.reject(new Error('the source is away'));
      },
    });
    expect((await client.command(0, { length: 32 * MIB })).error).toBe(EIO);
    expect(asked).toBe(4);
  });

  it('sends one chunk when the client wants no more', async () => {
    const disk = testDisk(BYTES);
    const client = await connected(disk);
    const whole = await client.command(0, { length: 3 * MIB, flags: DF });
    expect(whole.data.map(({ bytes }) => bytes.length)).toEqual([3 * MIB]);
    disk.bad = { from: MIB, to: MIB + 1 };
    const failed = await client.command(0, { length: 3 * MIB, flags: DF });
    expect(failed).toMatchObject({ error: EIO, data: [], reason: 'the deadline has passed' });
  });

  it('reads a range into the caches below, and says when that fails', async () => {
    const disk = testDisk(BYTES);
    const fetched: number[] = [];
    disk.gate = (offset, length) => {
      fetched.push(offset, length);
      return Promise.resolve();
    };
    const client = await connected(disk);
    const { error, data } = await client.command(CACHE ?? 0, { offset: 1000, length: MIB });
    expect({ error, data }).toEqual({ error: 0, data: [] });
    expect(fetched.filter((_, i) => i % 2 === 1).reduce((a, b) => a + b)).toBe(MIB);
    disk.bad = { from: MIB, to: MIB + 1 };
    expect((await client.command(CACHE ?? 0, { length: 2 * MIB })).error).toBe(EIO);
  });

  it('tells extents, one or many, and data where the disk knows none', async () => {
    const extents = [
      { length: 4096, isZero: false },
      { length: MIB, isZero: true },
    ];
    const client = await connected({
      ...memoryDisk(BYTES),
      extents: (offset, length, countMax) => {
        expect([offset, length]).toEqual([8192, 2 * MIB]);
        return extents.slice(0, countMax);
      },
    });
    const range = { offset: 8192, length: 2 * MIB };
    expect((await client.command(STATUS ?? 0, range)).extents).toEqual([
      [4096, 0],
      [MIB, 3],
    ]);
    const one = await client.command(STATUS ?? 0, { ...range, flags: REQ_ONE });
    expect(one.extents).toEqual([[4096, 0]]);
    const plain = await connected(memoryDisk(BYTES));
    expect((await plain.command(STATUS ?? 0, range)).extents).toEqual([[2 * MIB, 0]]);
    const without = await connected(memoryDisk(BYTES), { structured: false });
    expect((await without.command(STATUS ?? 0, range)).error).toBe(EINVAL);
  });

  it('answers everything before it hangs up at DISC', async () => {
    const disk = testDisk(BYTES);
    const gate = Promise.withResolvers<void>();
    disk.gate = () => gate.promise;
    const client = await connected(disk);
    const slow = client.read(64 * KIB, 4096);
    const end = client.command(DISC ?? 0);
    const ended = expect(end).rejects.toThrow('hung up');
    gate.resolve();
    expect(Buffer.compare(await slow, BYTES.subarray(64 * KIB, 64 * KIB + 4096))).toBe(0);
    await ended;
    await client.closed();
  });

  it('hangs up on a client that sends something else than a command', async () => {
    const client = await connected(memoryDisk(BYTES));
    client.socket.write(Buffer.alloc(28, 1));
    await client.closed();
  });

  it('bounds the reads that wait for the disk', async () => {
    const disk = testDisk(BYTES);
    const gate = Promise.withResolvers<void>();
    let inFlight = 0;
    let most = 0;
    disk.gate = async () => {
      most = Math.max(most, ++inFlight);
      await gate.promise;
      inFlight--;
    };
    const client = await connected(disk);
    const range = { offset: 64 * KIB, length: 4096 };
    const reads = Array.from({ length: 2000 }, () => client.command(0, range));
    gate.resolve();
    expect((await Promise.all(reads)).every(({ error }) => error === 0)).toBe(true);
    expect(most).toBe(256);
  });

  it('bounds what waits for a client that does not read', async () => {
    const disk = memoryDisk(BYTES);
    let readBytes = 0;
    const counting: ReadOnlyDisk = {
      ...disk,
      readSync: (target, offset) => {
        readBytes += target.length;
        return disk.readSync(target, offset);
      },
    };
    const { path } = await serveNbd({ slow: counting, other: disk });
    const slow = await NbdClient.enter(path, 'slow');
    slow.socket.pause();
    const reads = Array.from({ length: 100 }, () => slow.read(0, MIB));
    const other = await NbdClient.enter(path, 'other');
    for (let i = 0; i < 20; i++) await other.read(0, 4096);
    expect(readBytes).toBeLessThanOrEqual(4 * MIB);
    other.close();
    slow.socket.resume();
    await Promise.all(reads);
    expect(readBytes).toBe(100 * MIB);
    slow.close();
  });

  it('gives right bytes to clients that read in pieces, whatever the sizes', async () => {
    const disk = testDisk(BYTES);
    const { path } = await serveNbd({ '': disk });
    const range = fc
      .tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 2 * MIB }))
      .map(([offset, length]) => ({ offset, length: Math.min(length, SIZE - offset) }));
    await fc.assert(
      fc.asyncProperty(
        fc.boolean(),
        fc.array(range, { minLength: 1, maxLength: 40 }),
        async (structured, ranges) => {
          const client = await NbdClient.enter(path, '', { structured });
          client.socket.pause();
          const reads = ranges.map(({ offset, length }) => client.read(offset, length));
          client.socket.resume();
          const got = await Promise.all(reads);
          const isRight = got.every((bytes, i) => {
            const { offset = 0, length = 0 } = ranges[i] ?? {};
            return Buffer.compare(bytes, BYTES.subarray(offset, offset + length)) === 0;
          });
          client.close();
          expect(isRight).toBe(true);
        },
      ),
      { numRuns: 20 },
    );
  });

  it('serves devices by name, and the default one to a client that names none', async () => {
    const disks = { app: memoryDisk(BYTES), db: memoryDisk(BYTES.subarray(MIB)) };
    const { server, path } = await serveNbd(disks);
    const sizeOf = async (name: string): Promise<number> => {
      const client = await NbdClient.enter(path, name);
      client.close();
      return client.sizeBytes;
    };
    expect(await Promise.all(['app', 'db'].map(sizeOf))).toEqual([SIZE, SIZE - MIB]);
    await expect(sizeOf('')).rejects.toThrow('no device has this name');
    await server.unexport('app');
    expect(await sizeOf('')).toBe(SIZE - MIB);
    server.export('', memoryDisk(BYTES.subarray(0, MIB)));
    expect(await sizeOf('')).toBe(MIB);
  });

  it('cuts off the clients of a device that it offers no longer, and nobody else', async () => {
    const { server, path } = await serveNbd({ app: memoryDisk(BYTES), db: memoryDisk(BYTES) });
    const [app, db] = await Promise.all([
      NbdClient.enter(path, 'app'),
      NbdClient.enter(path, 'db'),
    ]);
    await server.unexport('app');
    await app.closed();
    await db.read(0, 512);
    await expect(NbdClient.enter(path, 'app')).rejects.toThrow('no device has this name');
    db.close();
  });

  it('enters by the option of old clients', async () => {
    const { path } = await serveNbd({ app: memoryDisk(BYTES) });
    for (const [flags, trailing] of [
      [3, 0],
      [1, 124],
      [0, 124],
    ] as const) {
      const client = await NbdClient.open(path, flags);
      await client.enterOldStyle('app', trailing);
      expect(client.sizeBytes).toBe(SIZE);
      expect(Buffer.compare(await client.read(5, 1000), BYTES.subarray(5, 1005))).toBe(0);
      client.close();
    }
    const lost = await NbdClient.open(path);
    await expect(lost.enterOldStyle('other', 0)).rejects.toThrow('hung up');
  });

  it('takes commands that come with the last option', async () => {
    const { path } = await serveNbd({ app: memoryDisk(BYTES) });
    const client = await NbdClient.open(path);
    const disconnect = Buffer.alloc(28);
    disconnect.writeUInt32BE(0x25609513);
    disconnect.writeUInt16BE(2, 6);
    const name = Buffer.concat([u32(1), text('app')]);
    client.socket.write(Buffer.concat([Buffer.from('IHAVEOPT'), name, disconnect]));
    await client.closed();
  });

  it('makes a socket for its own user alone, and replaces what a dead server left', async () => {
    const path = join(tempFolder(), 'nbd.sock');
    const first = nbdServer();
    await first.listen(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await first.close();
    const second = nbdServer();
    second.export('', memoryDisk(BYTES));
    await second.listen(path);
    onTestFinished(() => second.close());
    const client = await NbdClient.enter(path);
    await client.read(0, 512);
    client.close();
  });

  it('does not replace a file that is no socket, nor use a path that is too long', async () => {
    const folder = tempFolder();
    const path = join(folder, 'file');
    writeFileSync(path, 'mine');
    await expect(nbdServer().listen(path)).rejects.toThrow('something else than a socket');
    expect(readFileSync(path, 'utf8')).toBe('mine');
    await expect(nbdServer().listen(join(folder, 'x'.repeat(108)))).rejects.toThrow('at most 107');
    await expect(nbdServer().listen(join(folder, 'no/such'))).rejects.toThrow('ENOENT');
  });

  it('listens on a descriptor that another process keeps, and leaves the path alone', async () => {
    const path = join(tempFolder(), 'nbd.sock');
    const fd = listenUnix(path);
    const early = NbdClient.enter(path); // Waits for a server.
    const server = nbdServer();
    server.export('', memoryDisk(BYTES));
    await server.listen(fd);
    expect(server.listeningFd).toBe(fd);
    const client = await early;
    expect(Buffer.compare(await client.read(7, 100), BYTES.subarray(7, 107))).toBe(0);
    await server.close();
    await client.closed();
    expect(statSync(path).isSocket()).toBe(true);
  });

  it('serves a device on a socket without a handshake, as the kernel wants it', async () => {
    const server = nbdServer();
    server.export('app', testDisk(BYTES));
    onTestFinished(() => server.close());
    const [ours, theirs] = socketPair();
    server.adopt(ours, 'app');
    const client = NbdClient.onDescriptor(theirs);
    expect(Buffer.compare(await client.read(9, 300_000), BYTES.subarray(9, 300_009))).toBe(0);
    await server.unexport('app');
    await client.closed();
  });
});
