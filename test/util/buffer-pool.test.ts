import { describe, expect, it } from 'vitest';
import { BufferPool } from '../../src/util/buffer-pool.ts';

describe('BufferPool', () => {
  it('acquire() gives small payloads no more memory than they need', () => {
    const pool = new BufferPool({ slabBytes: 1024, freeMax: 4 });
    expect(pool.acquire(1).bytes.buffer.byteLength).toBe(1);
    expect(pool.acquire(511).bytes.buffer.byteLength).toBe(511);
    expect(pool.acquire(512).bytes.buffer.byteLength).toBe(1024);
    expect(pool.acquire(0).bytes).toHaveLength(0);
  });

  it('acquire() uses released slabs again, and none that is smaller', () => {
    const pool = new BufferPool({ slabBytes: 1024, freeMax: 4 });
    const big = pool.acquire(1000);
    const slab = big.bytes.buffer;
    big.release();
    pool.acquire(10).release();
    expect(pool.acquire(600).bytes.buffer).toBe(slab);
    expect(pool.acquire(1024).bytes).toHaveLength(1024);
  });

  it('release() poisons what a reader might have kept, whatever its size', () => {
    const pool = new BufferPool({ slabBytes: 1024, freeMax: 4, poison: true });
    for (const length of [10, 1000]) {
      const payload = pool.acquire(length);
      const { bytes } = payload;
      payload.release();
      expect(bytes.every((byte) => byte === 0xdb)).toBe(true);
    }
  });
});
