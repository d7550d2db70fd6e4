import koffi from 'koffi';
import type { ZstdDecode } from '../runtime/node/codec.ts';

/**
 * The system's libzstd, on hosts that have it: Node makes a context for each call, which takes as
 * long as a block of 16 KiB itself (46 us a block by Node, 23 us by this). What it gives serves one
 * thread.
 */
export function systemZstd(): ZstdDecode | undefined {
  try {
    const library = koffi.load('libzstd.so.1');
    const makeContext = library.func('void *ZSTD_createDCtx()');
    // Errors are negative as a signed number (zstd_errors.h).
    const decompress = library.func(
      'int64_t ZSTD_decompressDCtx(void *context, uint8_t *target, size_t targetBytes, ' +
        'const uint8_t *source, size_t sourceBytes)',
    );
    const context = makeContext() as unknown;
    if (context === null) return undefined;
    return (source, target) =>
      decompress(context, target, target.length, source, source.length) === target.length;
  } catch {
    return undefined;
  }
}
