import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Upper, WritableDevices } from '../../../src/snapshotter/contracts.ts';
import { digestOf } from '../../kit/registry-content.ts';

/** Writable devices that are a file. Each commit awaits `gate`, and fails when it rejects. */
export class MemoryWritable implements WritableDevices {
  gate: () => Promise<void> = () => Promise.resolve();
  readonly held = new Map<string, Upper & { readonly chainId: string }>();

  async hold({ chainId }: { chainId: string }, holder: string, upper: Upper) {
    this.held.set(holder, { ...upper, chainId });
    writeFileSync(join(upper.folder, 'data'), 'x'.repeat(8_192));
    const dir = upper.mode === 'dir' ? `/roots/${holder}` : undefined;
    return { dir, device: '/dev/loop7', options: ['rw', 'discard'] };
  }

  async drop(holder: string): Promise<void> {
    this.held.delete(holder);
  }

  async commit(_chain: unknown, holder: string, { folder }: Upper, name: string) {
    await this.gate();
    this.held.delete(holder);
    const bytes = Buffer.from('a layer');
    writeFileSync(join(folder, name), bytes);
    return { digest: digestOf(bytes), sizeBytes: bytes.length };
  }

  async clear(folder: string): Promise<void> {
    rmSync(join(folder, 'data'), { force: true });
  }
}
