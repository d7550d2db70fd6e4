import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, read, readSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it, onTestFinished } from 'vitest';
import { answerNow } from '../../src/device/fuse/answer-now.ts';
import { handleRequest } from '../../src/device/fuse/fuse-filesystem.ts';
import { REQUEST_BYTES_MAX } from '../../src/device/fuse/fuse-protocol.ts';
import { endLostRequests } from '../../src/device/fuse/lost-requests.ts';
import { MNT_DETACH, MNT_FORCE, MS_RDONLY, mount, unmount } from '../../src/device/linux.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const readLater = async (fd: number, buffer: Uint8Array): Promise<number> =>
  (await promisify(read)(fd, buffer, 0, buffer.length, null)).bytesRead;

/** A FUSE mount whose requests the test takes by hand. */
function mountByHand() {
  const path = join(tempFolder(), 'fuse');
  mkdirSync(path);
  const fd = openSync('/dev/fuse', 'r+');
  const data = `fd=${fd},rootmode=40000,user_id=0,group_id=0`;
  const failure = mount({ source: 'test', target: path }, 'fuse.test', { flags: MS_RDONLY, data });
  expect(failure).toBeUndefined();
  onTestFinished(() => {
    unmount(path, MNT_DETACH);
    closeSync(fd);
  });
  const buffer = new Uint8Array(REQUEST_BYTES_MAX);
  const next = (): Uint8Array => buffer.subarray(0, readSync(fd, buffer));
  /** Answers all requests up to the first one that reads the file, which it leaves unanswered. */
  const serveUntilRead = (): void => {
    for (;;) {
      const action = handleRequest(next(), { sizeBytes: 8192 });
      if (action.kind === 'read') return;
      if (action.kind === 'answer') answerNow(fd, action.bytes);
    }
  };
  /** Answers this request and all later ones, until `stop()`. */
  const serveOn = async (request: Uint8Array): Promise<void> => {
    for (let bytes = request; ; ) {
      const action = handleRequest(bytes, { sizeBytes: 8192 });
      if (action.kind === 'answer') answerNow(fd, action.bytes);
      const length = await readLater(fd, buffer).catch(() => undefined);
      if (length === undefined) return;
      bytes = buffer.subarray(0, length);
    }
  };
  const stop = (): void => void unmount(path, MNT_FORCE);
  return { fd, path, next, serveUntilRead, serveOn, stop };
}

describeWith('endLostRequests()', [needs.root, needs.fuse], () => {
  it('ends with EIO what a dead server had taken, and nothing else', async () => {
    const { fd, path, next, serveUntilRead, serveOn, stop } = mountByHand();
    // Past the cache: a cached read of a page that failed is tried again by the kernel.
    const args = [
      `if=${join(path, 'image')}`,
      'of=/dev/null',
      'iflag=direct',
      'bs=4096',
      'count=1',
    ];
    const reader = spawn('dd', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    reader.stderr.on('data', (data: Buffer) => (said += data.toString()));
    serveUntilRead();
    const asker = spawn('stat', ['-f', '-c', '%s', path], { stdio: ['ignore', 'pipe', 'ignore'] });
    let told = '';
    asker.stdout.on('data', (data: Buffer) => (told += data.toString()));
    const request = next();
    const ends = [once(reader, 'close'), once(asker, 'close')];
    endLostRequests(fd, request);
    const serving = serveOn(request);
    await Promise.all(ends);
    stop();
    await serving;
    expect(said).toMatch(/Input\/output error/);
    expect(told.trim()).toBe('4096');
  });
});
