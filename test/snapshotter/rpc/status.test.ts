import { status } from '@grpc/grpc-js';
import { expect, it } from 'vitest';
import { LINK_ERROR_CODES, LinkError } from '../../../src/device/link/errors.ts';
import { DeviceError } from '../../../src/device/errors.ts';
import { DeadlineError } from '../../../src/runtime/deadline.ts';
import { SnapshotError } from '../../../src/snapshotter/errors.ts';
import { failureOf } from '../../../src/snapshotter/rpc/status.ts';

const named = (error: unknown): string => status[failureOf(error).code];

it('failureOf() says why an image cannot be read, in the terms of gRPC', () => {
  const codes = LINK_ERROR_CODES.map((code) => [code, named(new LinkError('why', { code }))]);
  expect(Object.fromEntries(codes)).toEqual({
    'not-found': 'NOT_FOUND',
    'not-authorized': 'PERMISSION_DENIED',
    damaged: 'DATA_LOSS',
    unreachable: 'UNAVAILABLE',
    invalid: 'INVALID_ARGUMENT',
    'unknown-blob': 'INTERNAL',
    overloaded: 'UNAVAILABLE',
    cancelled: 'CANCELLED',
    failed: 'INTERNAL',
  });
  expect(named(new DeviceError('why', { code: 'not-permitted', step: 'mount' }))).toBe(
    'FAILED_PRECONDITION',
  );
  expect(named(new DeadlineError('late'))).toBe('UNAVAILABLE');
  expect(named(AbortSignal.abort().reason)).toBe('CANCELLED');
});

it('failureOf() tells a full disk, and a mistake of this program, from the rest', () => {
  const full = Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
  expect(failureOf(full)).toMatchObject({ code: status.RESOURCE_EXHAUSTED, isBug: false });
  const io = Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
  expect(failureOf(io)).toMatchObject({ code: status.INTERNAL, isBug: false });
  expect(failureOf(new TypeError('x is undefined'))).toMatchObject({
    ...{ code: status.INTERNAL, details: 'x is undefined', isBug: true },
  });
  const missing = new SnapshotError('snapshot x does not exist', { code: 'not-found' });
  expect(failureOf(missing)).toEqual({
    ...{ code: status.NOT_FOUND, details: 'snapshot x does not exist', isBug: false },
  });
});
