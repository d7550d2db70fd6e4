import type { AgentStatus, HeldBlob, MountedImage } from '../../src/agent/admin/answers.ts';
import type { AgentFacts, MountService, Readiness } from '../../src/agent/admin/services.ts';
import type { Digest } from '../../src/image/digest.ts';
import { CodedError } from '../../src/util/errors.ts';

export const DIGEST = `sha256:${'cd'.repeat(32)}` as Digest;

/** An error that a subsystem behind a port could raise. */
export class Failure extends CodedError<{ readonly code: string }> {
  constructor(code: string) {
    super(`the twin fails with ${code}`, { code });
  }
}

/** An agent with one blob; ready once the test clears `reason`. */
export class StatusTwin implements AgentFacts, Readiness {
  reason: string | undefined = 'no root answered yet';

  notReady(): string | undefined {
    return this.reason;
  }

  status(): Promise<AgentStatus> {
    return Promise.resolve(this.#status());
  }

  #status(): AgentStatus {
    return {
      version: '0.0.1',
      role: 'child',
      peer: 'peer-a',
      zone: 'z1',
      addresses: ['/ip4/10.0.0.1/tcp/19147'],
      uptimeSeconds: 12.5,
      state: this.reason === undefined ? 'ready' : 'not ready',
      ...(this.reason !== undefined && { notReady: this.reason }),
      notices: [],
      roots: [{ peer: 'peer-r', host: 'root', address: '/ip4/10.0.0.9/tcp/1', answers: true }],
      peers: ['peer-b'],
      hosts: [{ peer: 'peer-b', name: 'b', zone: 'z1', address: '/ip4/10.0.0.2/tcp/1' }],
      store: {
        dir: '/store',
        quotaBytes: 2 ** 30,
        sizeBytes: 3 * 2 ** 20,
        blobCount: 1,
        blockCount: 12,
      },
      mounts: [],
      failedReads: 0,
      bytesBySource: { parent: 2 ** 20, origin: 0 },
    };
  }

  blobs(): readonly HeldBlob[] {
    return [{ digest: DIGEST, sizeBytes: 3 * 2 ** 20, blocks: [[0, 12]] }];
  }

  tree(digest?: Digest): ReturnType<AgentFacts['tree']> {
    const own = {
      digest: DIGEST,
      stripe: 0,
      epoch: 4,
      path: ['peer-b', 'peer-r'],
      alternates: [],
      children: ['peer-c'],
    };
    const isAsked = digest === undefined || digest === DIGEST;
    return Promise.resolve({
      trees: isAsked ? [own] : [],
      hosts: isAsked ? this.#status().hosts : [],
    });
  }
}

/** Mounts in a map. `onMount` can fail or hang. */
export class MountTwin implements MountService {
  readonly #mounted = new Map<string, MountedImage>();
  onMount: (signal: AbortSignal) => Promise<void> = async () => {};

  async mount(image: string, dir: string, signal: AbortSignal): Promise<MountedImage> {
    await this.onMount(signal);
    const mounted = { image, digest: DIGEST, dir, device: '/dev/loop3', sizeBytes: 5 * 2 ** 20 };
    this.#mounted.set(dir, mounted);
    return mounted;
  }

  async unmount(dir: string): Promise<void> {
    this.#mounted.delete(dir);
  }

  list(): readonly MountedImage[] {
    return [...this.#mounted.values()];
  }
}
