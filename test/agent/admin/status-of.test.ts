import { describe, expect, it } from 'vitest';
import { RequestError } from '../../../src/agent/admin/errors.ts';
import { statusOf } from '../../../src/agent/admin/status-of.ts';
import { BlockStoreError } from '../../../src/blockstore/errors.ts';
import { DeviceError } from '../../../src/device/errors.ts';
import { ImageError } from '../../../src/image/errors.ts';
import { PreheatError } from '../../../src/preheat/messages.ts';
import { RegistryError } from '../../../src/registry/errors.ts';
import { TransferError } from '../../../src/transfer/contracts/errors.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { PeerError } from '../../../src/transfer/contracts/transport.ts';
import { Failure } from '../../kit/twins.ts';

describe('statusOf()', () => {
  it.each([
    [new RequestError('x', { code: 'bad-request' }), 400],
    [new RequestError('x', { code: 'not-ready' }), 503],
    [new DeviceError('x', { code: 'busy', dir: '/a' }), 409],
    [new BlockStoreError('x', { code: 'too-many-pins' }), 409],
    [new BlockStoreError('x', { code: 'io' }), 500],
    [new PreheatError('x', { code: 'refused' }), 403],
    [new RegistryError('x', { code: 'denied', status: 403 }), 403],
    [new RegistryError('x', { code: 'no-platform' }), 502],
    [new OriginError('x', { code: 'unavailable' }), 503],
    [new PeerError('x', { code: 'timeout' }), 504],
    [new TransferError('x', { code: 'deadline', waitedMs: 1 }), 504],
    [new ImageError('x', { code: 'not-a-layer' }), 422],
  ])('tells the codes of a class apart: %s', (error, status) => {
    expect(statusOf(error)).toBe(status);
  });

  it('depends on the class, not on the text of the code', () => {
    expect(statusOf(new Failure('not-found'))).toBe(500);
    expect(statusOf(new Error('defect'))).toBe(500);
  });
});
