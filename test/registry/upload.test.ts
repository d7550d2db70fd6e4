import { randomBytes } from 'node:crypto';
import { expect, onTestFinished, test } from 'vitest';
import { RegistryError } from '../../src/registry/errors.ts';
import { digestOf } from '../kit/registry-content.ts';
import { PushRegistry, type PushHabits } from '../kit/push-registry.ts';
import { makeClient, passingClock } from './kit/clients.ts';

const MIB = 1024 * 1024;
const bytes = randomBytes(40 * MIB);
const digest = digestOf(bytes);

async function* piecesOf(all: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < all.length; at += 700_001) yield all.subarray(at, at + 700_001);
}

async function startRegistry(habits: PushHabits): Promise<PushRegistry> {
  const registry = new PushRegistry(habits);
  await registry.start();
  onTestFinished(() => registry.stop());
  return registry;
}

/** Pushes the blob to a registry with these habits. */
async function push(habits: PushHabits, content: Uint8Array = bytes) {
  const registry = await startRegistry(habits);
  const host = registry.address;
  const client = makeClient([{ host, insecure: true }], passingClock());
  const origin = { registry: host, repository: 'app' };
  const blob = { digest: digestOf(content), sizeBytes: content.length, origin };
  const progress: number[] = [];
  const isSent = await client.pushBlob(blob, () => piecesOf(content), {
    onProgress: (sentBytes) => progress.push(sentBytes),
  });
  const kept = registry.blobs.get(`app ${blob.digest}`);
  expect(kept?.equals(content)).toBe(true);
  const count = (method: string): number =>
    registry.asked.filter((each) => each.startsWith(`${method} blobs/uploads`)).length;
  return { registry, isSent, progress, count };
}

test('RegistryClient.pushBlob() sends a large blob in chunks', async () => {
  const { registry, isSent, progress, count } = await push({});
  expect(isSent).toBe(true);
  expect(progress).toEqual([16 * MIB, 32 * MIB, 40 * MIB]);
  expect([count('POST'), count('PATCH'), count('PUT')]).toEqual([1, 3, 1]);
  expect(registry.receivedBytes).toBe(bytes.length);
});

test('RegistryClient.pushBlob() sends a small blob in one piece', async () => {
  const { count } = await push({}, bytes.subarray(0, MIB));
  expect([count('POST'), count('PATCH'), count('PUT')]).toEqual([1, 0, 1]);
  const empty = await push({}, new Uint8Array(0));
  expect(empty.isSent).toBe(true);
});

test('RegistryClient.pushBlob() goes on within a chunk after a break', async () => {
  const { registry, count } = await push({ cutsAfter: [10 * MIB, 3 * MIB, 1 * MIB, 12 * MIB] });
  // What was in flight when the connection broke is sent again.
  expect(registry.receivedBytes).toBe(bytes.length);
  expect(count('POST')).toBe(1);
});

test('RegistryClient.pushBlob() sends nothing again when only the answer was lost', async () => {
  const { registry, count } = await push({ losesAnswer: true });
  expect(registry.receivedBytes).toBe(bytes.length);
  expect(count('PATCH')).toBe(3);
});

test('RegistryClient.pushBlob() begins anew when the registry forgot the upload', async () => {
  const { registry, count } = await push({ cutsAfter: [10 * MIB], forgetsBroken: true });
  expect(count('POST')).toBe(2);
  expect(registry.receivedBytes).toBeGreaterThanOrEqual(bytes.length + 10 * MIB);
});

test('RegistryClient.pushBlob() gives up when the registry forgets each upload', async () => {
  const registry = await startRegistry({
    cutsAfter: Array.from({ length: 20 }, () => MIB),
    forgetsBroken: true,
  });
  const host = registry.address;
  const client = makeClient([{ host, insecure: true }], passingClock());
  const blob = {
    digest,
    sizeBytes: bytes.length,
    origin: { registry: host, repository: 'app' },
  };
  await expect(client.pushBlob(blob, () => piecesOf(bytes))).rejects.toThrow(/forgot the upload/);
});

test('RegistryClient.pushBlob() sends chunks as large as the registry wants', async () => {
  const { progress } = await push({ chunkBytesMin: 30 * MIB });
  expect(progress).toEqual([30 * MIB, 40 * MIB]);
});

test.each([404, 405, 413, 416, 501])(
  'RegistryClient.pushBlob() sends one piece when chunks are refused with %i',
  async (patchStatus) => {
    const { count, isSent } = await push({ patchStatus });
    expect(isSent).toBe(true);
    expect([count('POST'), count('PUT')]).toEqual([2, 1]);
  },
);

test('RegistryClient.pushBlob() mounts what another repository has', async () => {
  const registry = await startRegistry({});
  const host = registry.address;
  registry.blobs.set(`base ${digest}`, bytes);
  const client = makeClient([{ host, insecure: true }], passingClock());
  const blob = { digest, sizeBytes: bytes.length, origin: { registry: host, repository: 'app' } };
  const open = () => piecesOf(bytes);
  expect(await client.pushBlob(blob, open, { mountFrom: 'base' })).toBe(false);
  expect(registry.receivedBytes).toBe(0);
  const other = { ...blob, origin: { ...blob.origin, repository: 'third' } };
  expect(await client.pushBlob(other, open, { mountFrom: 'fourth' })).toBe(true);
});

test.each([MIB, 40 * MIB])(
  'RegistryClient.pushBlob() fails as its source does, at %i bytes',
  async (sizeBytes) => {
    const registry = await startRegistry({});
    const host = registry.address;
    const client = makeClient([{ host, insecure: true }], passingClock());
    const origin = { registry: host, repository: 'app' };
    const blob = { digest: digestOf(bytes.subarray(0, sizeBytes)), sizeBytes, origin };
    let opened = 0;
    const broken = async function* (): AsyncGenerator<Uint8Array> {
      opened++;
      yield bytes.subarray(0, sizeBytes / 2);
      throw new Error('the disk is gone');
    };
    const pushed = client.pushBlob(blob, broken);
    await expect(pushed).rejects.toThrow('the disk is gone');
    await expect(pushed).rejects.not.toBeInstanceOf(RegistryError);
    expect(opened).toBe(1);
    expect(registry.blobs.size).toBe(0);
  },
);
