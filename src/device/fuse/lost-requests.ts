import { writeSync } from 'node:fs';
import { decodeRequest, encodeStatus, ERRNO, OUT_HEADER_BYTES } from './fuse-protocol.ts';

/** Number of the notification in include/uapi/linux/fuse.h (Linux 6.9). */
const FUSE_NOTIFY_RESEND = 7;

/** The kernel counts requests up in steps of two (FUSE_REQ_ID_STEP). */
const UNIQUE_STEP = 2n;

/**
 * Requests before the first one of a new server that may be among the lost: 65,536, some seconds of
 * the fastest reads. A lost request is at most as old as the restart of a server takes, plus the
 * deadline of a read; one that is older than this many others stays. Each costs a write(2), 0.1 s
 * together.
 */
const LOST_MAX = 65_536n;

/**
 * Has the kernel hand out again the requests that a dead server had taken and not answered. False
 * when the kernel cannot (before Linux 6.9).
 */
export function resendRequests(fd: number): boolean {
  // fuse_out_header with the notification's number as `error`, and 0 as `unique`.
  const bytes = new Uint8Array(OUT_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, OUT_HEADER_BYTES, true);
  view.setInt32(4, FUSE_NOTIFY_RESEND, true);
  try {
    writeSync(fd, bytes);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EINVAL') return false;
    throw error;
  }
}

/**
 * Ends with EIO what a dead server had taken, for kernels that do not send requests again. The
 * number of the first request that the new server reads (`request`, whole) bounds theirs. Numbers
 * that are answered already, or that wait to be read, the kernel does not find (ENOENT).
 */
export function endLostRequests(fd: number, request: Uint8Array): void {
  const first = decodeRequest(request);
  if (first === undefined) return;
  const { low, high } = first.unique;
  // Without the bits that mark interruptions (0) and requests sent again (63).
  const next = ((BigInt(high & 0x7fff_ffff) << 32n) | BigInt(low)) & ~1n;
  const last = next > LOST_MAX * UNIQUE_STEP ? next - LOST_MAX * UNIQUE_STEP : 0n;
  for (let unique = next - UNIQUE_STEP; unique > last; unique -= UNIQUE_STEP) {
    const halves = { low: Number(unique & 0xffff_ffffn), high: Number(unique >> 32n) };
    try {
      writeSync(fd, encodeStatus(halves, ERRNO.EIO));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return;
    }
  }
}
