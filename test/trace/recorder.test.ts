import { describe, expect, it } from 'vitest';
import { TraceRecorder } from '../../src/trace/recorder.ts';

const segment = (layer: number | undefined, moffset: number, length: number) => ({
  offset: 0,
  length,
  layer,
  moffset,
});

describe('TraceRecorder', () => {
  it('records the first touch of each byte, in order, and joins what goes on', () => {
    const recorder = new TraceRecorder({ accessesMax: 100 });
    recorder.add([segment(1, 4096, 4096), segment(undefined, 0, 8192), segment(1, 8192, 512)]);
    recorder.add([segment(0, 0, 512)]);
    recorder.add([segment(1, 0, 16_384)]);
    recorder.add([segment(1, 4096, 512), segment(0, 0, 512)]);
    expect(recorder.accesses).toEqual([
      { op: 'read', layer: 1, offset: 4096, length: 4608 },
      { op: 'read', layer: 0, offset: 0, length: 512 },
      { op: 'read', layer: 1, offset: 0, length: 4096 },
      { op: 'read', layer: 1, offset: 8704, length: 7680 },
    ]);
  });

  it('keeps no more than a mount follows, and counts the rest', () => {
    const recorder = new TraceRecorder({ accessesMax: 1 });
    recorder.add([segment(0, 0, 512), segment(0, 512, 512), segment(0, 4096, 1024)]);
    expect(recorder.accesses).toEqual([{ op: 'read', layer: 0, offset: 0, length: 1024 }]);
    expect(recorder.droppedBytes).toBe(1024);
  });

  it('records nothing after stop()', () => {
    const recorder = new TraceRecorder({ accessesMax: 1 });
    recorder.stop();
    recorder.add([segment(0, 0, 512)]);
    expect(recorder.accesses).toEqual([]);
  });
});
