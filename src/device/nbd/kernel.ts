import { closeSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import type { Clock } from '../../runtime/clock.ts';
import { defined } from '../../util/assert.ts';
import { DeviceError } from '../errors.ts';
import { kernelNbdPath, type KernelNbd } from '../nbd-devices.ts';
import { decodeAnswers, encodeRequest, type Attribute, type NetlinkAnswer } from './netlink.ts';
import { EXPORT_FLAG } from './protocol.ts';
import { netlinkSocket, socketPair } from '../sockets.ts';

/** The controller of generic netlink, which knows the families by name. */
const CONTROLLER = { family: 16, version: 2, getFamily: 3, familyId: 1, familyName: 2 };

/** The kernel's NBD family: nbd-netlink.h. */
const NBD = { name: 'nbd', version: 1, connect: 1, disconnect: 2, reconfigure: 3 };
const ATTRIBUTE = {
  index: 1,
  sizeBytes: 2,
  blockSizeBytes: 3,
  serverFlags: 5,
  sockets: 7,
  deadConnectionSeconds: 8,
  identifier: 10,
};
const SOCKET_ITEM = 1;
const SOCKET_FD = 1;

/** Of the device: a filesystem with smaller blocks than the device's does not mount. */
const BLOCK_BYTES = 512;

/** Largest answer to the requests here, in bytes; the longest has some hundred. */
const ANSWER_BYTES_MAX = 16 * 1024;

/**
 * After how many milliseconds the kernel looks at a request without a reply. If its connection was
 * replaced meanwhile, it sends the request again; otherwise it goes on waiting, and logs that. So
 * this is what a restart of the server adds at most, twice over, to what is in flight.
 */
const LOOK_MS = 2_000;

/**
 * How long a new connection waits for the kernel to notice that the old one is gone, in
 * milliseconds. It does at once, in a thread of its own.
 */
const NOTICE_MS = 5_000;
const NOTICE_STEP_MS = 20;

/** Serves the device on a connected socket, whose descriptor it owns from here on. */
export type ServeSocket = (fd: number) => void;

/** Why the kernel of this host has no NBD devices; undefined when it has. */
export function kernelNbdFault(): string | undefined {
  try {
    familyOf(NBD.name);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * Attaches a disk to a free /dev/nbdN, by one connection. It outlives the server: reads
 * then wait for `reattachKernelNbd()`, and fail with EIO after `deadConnectionSeconds`. The
 * identifier, which is needed for that, is in sysfs (`kernelNbds()`). Throws DeviceError.
 */
export function attachKernelNbd(
  serve: ServeSocket,
  init: {
    readonly identifier: string;
    readonly sizeBytes: number;
    readonly deadConnectionSeconds: number;
  },
): KernelNbd {
  const { identifier, sizeBytes, deadConnectionSeconds } = init;
  const step = `attaching ${identifier} to the kernel`;
  const flags = EXPORT_FLAG.hasFlags | EXPORT_FLAG.readOnly;
  const reply = connected(serve, (socket) =>
    ask(step, NBD.connect, [
      [ATTRIBUTE.sizeBytes, { u64: sizeBytes }],
      [ATTRIBUTE.blockSizeBytes, { u64: BLOCK_BYTES }],
      [ATTRIBUTE.serverFlags, { u64: flags }],
      [ATTRIBUTE.deadConnectionSeconds, { u64: deadConnectionSeconds }],
      [ATTRIBUTE.identifier, { text: identifier }],
      socket,
    ]),
  );
  const index = Buffer.from(defined(reply.get(ATTRIBUTE.index), 'the kernel names the device'));
  const device = { index: index.readUInt32LE(0), identifier };
  try {
    writeFileSync(`/sys/block/nbd${device.index}/queue/io_timeout`, `${LOOK_MS}`);
  } catch {
    // Requests in flight during a restart then wait for the kernel's own 30 s.
  }
  return device;
}

/**
 * Gives an attached device a connection to another server, or to the one that has restarted: reads
 * that wait go on. Rejects with DeviceError, and when the device has a living connection.
 */
export async function reattachKernelNbd(
  components: { readonly serve: ServeSocket; readonly clock: Clock },
  device: KernelNbd,
): Promise<void> {
  const { serve, clock } = components;
  const step = `connecting ${kernelNbdPath(device)} again`;
  const endMs = clock.nowMs() + NOTICE_MS;
  for (;;) {
    const error = connected(serve, (socket) => {
      try {
        const { index, identifier } = device;
        ask(step, NBD.reconfigure, [
          [ATTRIBUTE.index, { u32: index }],
          [ATTRIBUTE.identifier, { text: identifier }],
          socket,
        ]);
        return undefined;
      } catch (failure) {
        return failure as DeviceError;
      }
    });
    if (error === undefined) return;
    // No dead connection to replace, yet.
    const isEarly = error.detail.code === 'failed' && error.detail.errno === 'ENOSPC';
    if (!isEarly || clock.nowMs() >= endMs) throw error;
    await clock.sleep(NOTICE_STEP_MS);
  }
}

/** Detaches a device, whose reads then fail; does nothing when it is not. Throws DeviceError. */
export function detachKernelNbd(device: Pick<KernelNbd, 'index'>): void {
  const index: Attribute = [ATTRIBUTE.index, { u32: device.index }];
  ask(`detaching ${kernelNbdPath(device)}`, NBD.disconnect, [index]);
}

/** Has the server serve one end of a pair of sockets, and gives the kernel the other. */
function connected<T>(serve: ServeSocket, give: (socket: Attribute) => T): T {
  const [ours, theirs] = socketPair();
  serve(ours);
  try {
    const item: Attribute = [SOCKET_ITEM, { nested: [[SOCKET_FD, { u32: theirs }]] }];
    return give([ATTRIBUTE.sockets, { nested: [item] }]);
  } finally {
    closeSync(theirs); // The kernel has its own hold on it; without one, our end closes too.
  }
}

/** Number of a family; it stays the same until the driver goes. */
function familyOf(name: string): number {
  const { family, version, getFamily, familyId, familyName } = CONTROLLER;
  const step = `finding the kernel's ${name} driver`;
  const request = encodeRequest(family, getFamily, version, [[familyName, { text: name }]]);
  try {
    const found = defined(exchange(step, request).get(familyId), 'the kernel names the family');
    return Buffer.from(found).readUInt16LE(0);
  } catch (error) {
    const isMissing =
      error instanceof DeviceError &&
      error.detail.code === 'failed' &&
      error.detail.errno === 'ENOENT';
    if (!isMissing) throw error;
    const text = `${error.message}: load it with \`modprobe nbd\``;
    throw new DeviceError(text, { code: 'not-permitted', step });
  }
}

function ask(
  step: string,
  command: number,
  attributes: readonly Attribute[],
): ReadonlyMap<number, Uint8Array> {
  return exchange(step, encodeRequest(familyOf(NBD.name), command, NBD.version, attributes));
}

/** Attributes of the kernel's reply, none when it sent none. Throws DeviceError with its error. */
function exchange(step: string, request: Uint8Array): ReadonlyMap<number, Uint8Array> {
  const fd = netlinkSocket();
  try {
    writeSync(fd, request);
    // The kernel has answered before the write returns; an answer that lacks fails the read.
    const answers: NetlinkAnswer[] = [];
    for (;;) {
      const buffer = Buffer.alloc(ANSWER_BYTES_MAX);
      answers.push(...decodeAnswers(buffer.subarray(0, readSync(fd, buffer))));
      const result = answers.find((answer) => answer.kind === 'result');
      if (result === undefined) continue;
      if (result.errno !== 0) throw refused(step, result.errno);
      const reply = answers.find((answer) => answer.kind === 'reply');
      return reply?.attributes ?? new Map<number, Uint8Array>();
    }
  } finally {
    closeSync(fd);
  }
}

function refused(step: string, value: number): DeviceError {
  const names = Object.entries(constants.errno);
  const errno = names.find(([, known]) => known === value)?.[0] ?? `errno ${value}`;
  return new DeviceError(`${step} failed with ${errno}`, { code: 'failed', step, errno });
}
