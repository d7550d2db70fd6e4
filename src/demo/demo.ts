import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { convertDirectory } from '../convert/convert-directory.ts';
import { LayoutPlace } from '../convert/places/layout-place.ts';
import { askAgent } from '../agent/admin/admin-client.ts';
import { EmbeddedRegistry } from './embedded-registry.ts';
import { digestHex } from '../image/digest.ts';
import { parseManifest, type Manifest } from '../image/manifest.ts';
import { NodeCodec } from '../runtime/node/codec.ts';
import { NodeHash } from '../runtime/node/hash.ts';
import { AgentCluster, type ClusterHost } from './agent-cluster.ts';
import {
  difference,
  distinctBytes,
  roundFigures,
  type HostFigures,
  type RoundFigures,
} from './figures.ts';
import { DemoError } from './processes.ts';
import { buildRootfs, PROGRAM } from './rootfs.ts';
import { readUnmounted, whyNotMountable } from './unmounted.ts';

/** Longest wait for the report of a program in the image, in milliseconds. */
const REPORT_MS_MAX = 180_000;

const REPOSITORY = 'demo';

/** Result of the demo; `--json` prints this object. */
export interface DemoResult {
  readonly hosts: number;
  /**
   * Hosts that mounted the image; 0 where mounts are impossible, and hosts read the image without
   * one.
   */
  readonly mounted: number;
  readonly depthMax: number;
  readonly imageBytes: number;
  /** Bytes of the distinct blocks that any host read. */
  readonly touchedBytes: number;
  readonly failedReads: number;
  readonly cold: RoundFigures;
  readonly warm: RoundFigures;
}

/** Figures of each host in one round. */
export interface DemoRound {
  readonly title: string;
  readonly hosts: readonly HostFigures[];
}

/**
 * Starts one real image on several hosts: an embedded registry, a root and child agents, each agent
 * in its own process. All children mount the image at the same time and start a program from it,
 * which reports back over HTTP. A second round repeats this with warm stores.
 *
 * Life: constructed -> `run()` -> `stop()`, which also undoes a run that failed half-way.
 */
export class Demo {
  readonly #hostCount: number;
  /** Whether to keep the folder with the logs and stores. */
  readonly #keep: boolean;
  readonly #say: (line: string) => void;
  readonly #signal: AbortSignal;
  readonly #reports = new Map<string, () => void>();
  /** Why this process cannot mount images; undefined when it can. */
  readonly #unmountable = whyNotMountable();
  /** Largest number of hops to the root so far. */
  #depth = 0;
  #sha256: string | undefined;
  #dir: string | undefined;
  #cluster: AgentCluster | undefined;
  #registry: EmbeddedRegistry | undefined;
  #reportServer: Server | undefined;

  constructor(
    components: { say: (line: string) => void },
    init: { hosts: number; keep: boolean; signal: AbortSignal },
  ) {
    this.#say = components.say;
    this.#hostCount = init.hosts;
    this.#keep = init.keep;
    this.#signal = init.signal;
  }

  async run(): Promise<{ result: DemoResult; rounds: readonly DemoRound[] }> {
    if (this.#unmountable !== undefined) {
      this.#say(
        `this process cannot mount images (${this.#unmountable}): hosts read without a mount`,
      );
    }
    const dir = await mkdtemp(join(tmpdir(), 'xylem-demo-'));
    this.#dir = dir;
    const registry = await this.#publish(dir);
    const reportUrl = await this.#listenForReports();
    const cluster = await this.#startAgents(dir, registry.address);
    const image = {
      cluster,
      reference: `docker://${registry.address}/${REPOSITORY}:latest`,
      reportUrl,
      ...registry,
    };
    const cold = await this.#round('cold start', image);
    const held = await Promise.all(cluster.hosts.map((host) => cluster.blobs(host)));
    const warm = await this.#round('warm start', image);
    const statuses = await Promise.all(cluster.hosts.map((host) => cluster.status(host)));
    const result: DemoResult = {
      hosts: this.#hostCount,
      mounted: cold.mounted,
      depthMax: this.#depth,
      imageBytes: registry.imageBytes,
      touchedBytes: distinctBytes(held),
      failedReads: statuses.reduce((sum, status) => sum + status.failedReads, 0),
      cold: cold.figures,
      warm: warm.figures,
    };
    return { result, rounds: [cold, warm] };
  }

  async stop(): Promise<void> {
    await this.#cluster?.stop();
    this.#reportServer?.close();
    this.#reportServer?.closeAllConnections();
    await this.#registry?.stop();
    if (this.#dir === undefined) return;
    if (this.#keep) this.#say(`logs and stores are in ${this.#dir}`);
    else await rm(this.#dir, { recursive: true, force: true });
    this.#dir = undefined;
  }

  /** Builds the image and serves it. */
  async #publish(dir: string): Promise<PublishedRegistry> {
    const rootfs = join(dir, 'rootfs');
    const layout = join(dir, 'oci');
    this.#say('building a root file system from the running Node and its packages');
    await buildRootfs(rootfs);
    this.#say('converting it to a block image');
    const components = { codec: new NodeCodec(), hash: new NodeHash() };
    const target = new LayoutPlace(components, `oci:${layout}:latest`);
    const converted = await convertDirectory(components, rootfs, target, {
      signal: this.#signal,
      workDirectory: dir,
    });
    const imageBytes = converted.layer.sizeBytes;
    await rm(rootfs, { recursive: true, force: true });
    this.#registry = new EmbeddedRegistry({ layoutDir: layout, repository: REPOSITORY });
    await this.#registry.start();
    const mib = (imageBytes / 2 ** 20).toFixed(0);
    this.#say(`image of ${mib} MiB served at ${this.#registry.address}`);
    const manifestFile = join(layout, 'blobs', 'sha256', digestHex(converted.digest));
    const manifest = parseManifest(await readFile(manifestFile));
    return { address: this.#registry.address, imageBytes, manifest };
  }

  async #startAgents(dir: string, registry: string): Promise<AgentCluster> {
    this.#say(`starting a root and ${this.#hostCount} agents`);
    const devices = this.#unmountable === undefined;
    this.#cluster = new AgentCluster({
      dir,
      roots: 1,
      children: this.#hostCount,
      registry,
      devices,
    });
    await this.#cluster.start();
    return this.#cluster;
  }

  /**
   * Mounts the image on all children at once, starts the program in each, and unmounts it
   * everywhere.
   */
  async #round(
    title: string,
    image: DemoImage,
  ): Promise<DemoRound & { mounted: number; figures: RoundFigures }> {
    this.#signal.throwIfAborted();
    const what =
      this.#unmountable === undefined
        ? `mounting the image on ${this.#hostCount} hosts and starting a program in each`
        : `reading the image on ${this.#hostCount} hosts`;
    this.#say(`${title}: ${what}`);
    const { cluster } = image;
    const before = await Promise.all(cluster.hosts.map((host) => cluster.status(host)));
    const originBefore = this.#originBytes();
    const { children } = cluster;
    const reports = await Promise.all(
      children.map((host) =>
        this.#unmountable === undefined
          ? this.#startProgram(host, image, `${image.reportUrl}${title[0]}-${host.name}`)
          : this.#readImage(host, image),
      ),
    );
    const after = await Promise.all(cluster.hosts.map((host) => cluster.status(host)));
    this.#depth = Math.max(this.#depth, await cluster.depthMax());
    if (this.#unmountable === undefined) {
      await Promise.all(children.map((host) => this.#unmount(host)));
    }
    const hosts = cluster.hosts.map((host, i) => ({
      name: host.name,
      reportMs: reports[i - 1] ?? 0,
      bytes: difference(after[i]?.bytesBySource ?? {}, before[i]?.bytesBySource ?? {}),
    }));
    const originBytes = this.#originBytes() - originBefore;
    return {
      title,
      hosts,
      mounted: this.#unmountable === undefined ? children.length : 0,
      figures: roundFigures(hosts.slice(1), originBytes),
    };
  }

  /** Milliseconds from the request to mount until the report of the program. */
  async #startProgram(host: ClusterHost, image: DemoImage, reportUrl: string): Promise<number> {
    const startMs = performance.now();
    const place = { admin: host.process.socket };
    await askAgent(place, 'mount', { image: image.reference, dir: host.mountDir });
    const reported = new Promise<void>((resolve) => {
      this.#reports.set(new URL(reportUrl).pathname, resolve);
    });
    const program = spawn('chroot', [host.mountDir, PROGRAM.node, PROGRAM.script, reportUrl], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let words = '';
    program.stderr.on('data', (text: Buffer) => {
      words = (words + text.toString()).slice(-2000);
    });
    const ended = once(program, 'exit');
    const timer = setTimeout(() => program.kill('SIGKILL'), REPORT_MS_MAX);
    const outcome = await Promise.race([
      reported.then(() => undefined),
      ended.then(([code, signal]: unknown[]) => `it ended with ${String(code ?? signal)}`),
    ]);
    const reportMs = performance.now() - startMs;
    await ended;
    clearTimeout(timer);
    if (outcome !== undefined) {
      throw new DemoError(
        `no report from the program on ${host.name}: ${outcome}: ${words.trim()}`,
        { code: 'no-report', host: host.name },
      );
    }
    return reportMs;
  }

  /** Milliseconds of a read of a part of the image; every host must read the same bytes. */
  async #readImage(host: ClusterHost, image: DemoImage): Promise<number> {
    const startMs = performance.now();
    const origin = { registry: image.address, repository: REPOSITORY };
    const sha256 = await readUnmounted(host.local, { manifest: image.manifest, origin });
    this.#sha256 ??= sha256;
    if (sha256 !== this.#sha256) {
      throw new DemoError(`${host.name} did not read the same bytes as the first host`, {
        code: 'wrong-bytes',
        host: host.name,
      });
    }
    return performance.now() - startMs;
  }

  async #unmount(host: ClusterHost): Promise<void> {
    await askAgent({ admin: host.process.socket }, 'unmount', { dir: host.mountDir });
  }

  /**
   * Starts the server for the reports of the programs; gives its URL, to which a name is appended.
   */
  async #listenForReports(): Promise<string> {
    const server = createServer((request, response) => {
      this.#reports.get(request.url ?? '')?.();
      response.end();
    });
    this.#reportServer = server;
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}/report/`;
  }

  #originBytes(): number {
    return this.#registry?.stats().blobBytes ?? 0;
  }
}

interface PublishedRegistry {
  readonly address: string;
  readonly imageBytes: number;
  readonly manifest: Manifest;
}

interface DemoImage extends PublishedRegistry {
  readonly cluster: AgentCluster;
  readonly reference: string;
  readonly reportUrl: string;
}
