/**
 * The least that a thread can do to serve a file over /dev/fuse: a read of the request, and one
 * write of the answer out of memory.
 */
import { readSync, writeSync, writevSync } from 'node:fs';
import { workerData } from 'node:worker_threads';
import { handleRequest } from '../src/device/fuse/fuse-filesystem.ts';
import { OP, OUT_HEADER_BYTES, REQUEST_BYTES_MAX } from '../src/device/fuse/fuse-protocol.ts';

const { fd, bytes } = workerData as { fd: number; bytes: Uint8Array };
const request = Buffer.alloc(REQUEST_BYTES_MAX);
const header = Buffer.alloc(OUT_HEADER_BYTES);

function serve(): boolean {
  let length: number;
  try {
    length = readSync(fd, request);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ENODEV';
  }
  if (request.readUInt32LE(4) === OP.read) {
    const offset = request.readUInt32LE(48) + request.readUInt32LE(52) * 2 ** 32;
    const count = Math.min(request.readUInt32LE(56), bytes.length - offset);
    header.writeUInt32LE(OUT_HEADER_BYTES + count, 0);
    request.copy(header, 8, 8, 16);
    writevSync(fd, [header, bytes.subarray(offset, offset + count)]);
    return true;
  }
  const action = handleRequest(request.subarray(0, length), { sizeBytes: bytes.length });
  if (action.kind === 'answer') writeSync(fd, action.bytes);
  return true;
}

while (serve());
