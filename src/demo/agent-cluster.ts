import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { makeClusterFiles, type ClusterFiles } from '../agent/cluster/cluster-files.ts';
import { SystemRandom } from '../runtime/node/random.ts';
import { peerIdOf } from '../net/node/identity.ts';
import { ed25519Signer } from '../runtime/node/signer.ts';
import { defined } from '../util/assert.ts';
import { askAgent } from '../agent/admin/admin-client.ts';
import type { Config } from '../agent/config/config-schema.ts';
import type { AgentStatus, HeldBlob, TreeStatus } from '../agent/admin/answers.ts';
import { freePorts } from './free-ports.ts';
import { startAgent, waitReady, type AgentProcess } from './processes.ts';

/** A host of the cluster, with its agent. */
export interface ClusterHost {
  readonly name: string;
  readonly role: Config['role'];
  readonly peer: string;
  /** URL of its local endpoint, with the prefix. */
  readonly local: string;
  /** URL of its local endpoint as a registry mirror, without the prefix. */
  readonly mirror: string;
  readonly process: AgentProcess;
  readonly mountDir: string;
  readonly storeDir: string;
}

/** Size, folder and settings of a cluster. */
export interface ClusterInit {
  /** Folder for keys, configurations, logs and stores; the caller removes it. */
  readonly dir: string;
  readonly roots: number;
  /** Relays between the roots and all children. Default: 0. */
  readonly relays?: number;
  readonly children: number;
  /** Registry that agents read over plain HTTP, as `host:port`. */
  readonly registry: string;
  /** Whether the children serve block devices. */
  readonly devices: boolean;
  /** Zones of the children, in their order. Default: one zone for all. */
  readonly zones?: readonly string[];
  /**
   * How the configurations name the roots: with their ids, or by address alone, so that their
   * certificates count.
   */
  readonly rootsBy?: 'id' | 'address';
  /** The section `limits` of the configuration, by role. */
  readonly limits?: Readonly<Partial<Record<Config['role'], object>>>;
  /** Sections and lists of the configuration: their keys beside and instead of the usual ones. */
  readonly config?: (role: Config['role']) => Readonly<Record<string, object>>;
  /** Where the hosts are, roots first; on this host's loopback when not given. */
  readonly places?: readonly HostPlace[];
}

/** The network namespace of a host. */
export interface HostPlace {
  /** Its IPv4 address, reachable from this process too. */
  readonly address: string;
  /** Command, with its first arguments, that starts a program in the namespace. */
  readonly enter: readonly string[];
}

/**
 * Roots, relays and children on loopback: each is a process with its own ports, keys and store.
 *
 * Life: constructed -> `start()` (resolves when all are ready) -> `stop()`.
 */
export class AgentCluster {
  readonly #init: ClusterInit;
  readonly #hosts: RunningHost[] = [];

  constructor(init: ClusterInit) {
    this.#init = init;
  }

  /** All hosts, roots first. */
  get hosts(): readonly ClusterHost[] {
    return this.#hosts;
  }

  get roots(): readonly ClusterHost[] {
    return this.#hosts.filter(({ role }) => role === 'root');
  }

  get children(): readonly ClusterHost[] {
    return this.#hosts.filter(({ role }) => role === 'child');
  }

  async start(): Promise<void> {
    const { dir, roots, relays = 0, children } = this.#init;
    const keys = makeClusterFiles(
      { random: new SystemRandom() },
      { dir: join(dir, 'keys'), roots, prefix: 'root' },
    );
    const names = [
      ...Array.from({ length: roots }, (_, i) => (roots === 1 ? 'root' : `root-${i + 1}`)),
      ...Array.from({ length: relays }, (_, i) => `relay-${i + 1}`),
      ...Array.from({ length: children }, (_, i) => `host-${i + 1}`),
    ];
    const ports = await freePorts(3 * names.length);
    const plans = await Promise.all(
      names.map((name, i) => this.#plan(name, ports.slice(3 * i), this.#init.places?.[i])),
    );
    await Promise.all(
      keys.roots.map(async ({ keyFile, certFile, peer }, i) => {
        const plan = defined(plans[i], 'a plan of each root');
        plan.peer = peer;
        await copyFile(keyFile, plan.keyFile);
        await copyFile(certFile, join(plan.dir, 'root.cert'));
      }),
    );
    const addresses = plans.map((plan) => `${plan.listen}/p2p/${plan.peer}`);
    const named = this.#init.rootsBy === 'address' ? plans.map(({ listen }) => listen) : addresses;
    const upstreams = {
      roots: named.slice(0, roots),
      relays: addresses.slice(roots, roots + relays),
    };
    for (const [i, plan] of plans.entries()) {
      const role = i < roots ? 'root' : i < roots + relays ? 'relay' : 'child';
      const zone = this.#init.zones?.[i - roots - relays];
      const config: Record<string, unknown> = {
        ...this.#config(plan, { role, ...upstreams, keys }),
        ...(zone !== undefined && { zone }),
      };
      for (const [section, keys] of Object.entries<object>(this.#init.config?.(role) ?? {})) {
        const chosen = config[section];
        config[section] = Array.isArray(keys) ? keys : { ...(chosen as object), ...keys };
      }
      const configFile = join(plan.dir, 'agent.yaml');
      await writeFile(configFile, stringify(config));
      const start = { ...plan, configFile, logFile: join(plan.dir, 'agent.log') };
      this.#hosts.push({
        name: plan.name,
        role,
        peer: plan.peer,
        local: `http://127.0.0.1:${plan.local}/dadip2p`,
        mirror: `http://127.0.0.1:${plan.local}`,
        start,
        process: startAgent(start),
        mountDir: join(plan.dir, 'mounts', 'image'),
        storeDir: join(plan.dir, 'store'),
      });
    }
    await Promise.all(this.#hosts.map((host) => waitReady(host.process)));
  }

  /**
   * Stops the agent of a host and starts another with the same configuration, keys and store, then
   * in `host.process`. Resolves without waiting until the agent is ready.
   */
  async restart(host: ClusterHost): Promise<void> {
    const running = defined(
      this.#hosts.find(({ name }) => name === host.name),
      'a host of this cluster',
    );
    await running.process.stop();
    running.process = startAgent(running.start);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#hosts.map((host) => host.process.stop()));
  }

  status(host: ClusterHost): Promise<AgentStatus> {
    return askAgent({ admin: host.process.socket }, 'status');
  }

  async blobs(host: ClusterHost): Promise<readonly HeldBlob[]> {
    return (await askAgent({ admin: host.process.socket }, 'blobs')).blobs;
  }

  async trees(host: ClusterHost): Promise<readonly TreeStatus[]> {
    return (await askAgent({ admin: host.process.socket }, 'tree')).trees;
  }

  /** Current largest number of hops from a child to a root. */
  async depthMax(): Promise<number> {
    const trees = await Promise.all(this.children.map((host) => this.trees(host)));
    return Math.max(0, ...trees.flat().map(({ path }) => path.length));
  }

  async #plan(
    name: string,
    [p2p = 0, local = 0, admin = 0]: readonly number[],
    place: HostPlace = { address: '127.0.0.1', enter: [] },
  ): Promise<Plan> {
    const dir = join(this.#init.dir, name);
    await mkdir(dir);
    const seed = randomBytes(32);
    const keyFile = join(dir, 'identity.key');
    await writeFile(keyFile, seed.toString('hex'), { mode: 0o600 });
    const peer = peerIdOf({ seed, publicKey: ed25519Signer(seed).publicKey });
    return {
      name,
      dir,
      keyFile,
      peer,
      listen: `/ip4/${place.address}/tcp/${p2p}`,
      local,
      admin: `http://${place.address}:${admin}`,
      socket: join(dir, 'admin', 'admin.sock'),
      enter: place.enter,
    };
  }

  #config(
    plan: Plan,
    init: {
      role: Config['role'];
      roots: readonly string[];
      relays: readonly string[];
      keys: ClusterFiles;
    },
  ): Record<string, unknown> {
    return {
      role: init.role,
      identity: { keyFile: plan.keyFile },
      cluster: { keyFile: init.keys.clusterKey, rootsAuthority: init.keys.authorityPublic },
      p2p: { listen: [plan.listen] },
      roots: init.roots,
      relays: init.relays,
      store: { dir: join(plan.dir, 'store'), quota: '4GiB' },
      local: { listen: `127.0.0.1:${plan.local}` },
      admin: { listen: plan.admin.slice('http://'.length), socket: plan.socket },
      registries: [{ host: this.#init.registry, insecure: true }],
      limits: this.#init.limits?.[init.role] ?? {},
      device: {
        enabled: init.role === 'child' && this.#init.devices,
        stateDir: join(plan.dir, 'device'),
        mountFolders: [join(plan.dir, 'mounts')],
      },
    };
  }
}

interface RunningHost extends ClusterHost {
  process: AgentProcess;
  /** Start options of its agent. */
  readonly start: Parameters<typeof startAgent>[0];
}

interface Plan {
  readonly name: string;
  readonly dir: string;
  readonly keyFile: string;
  peer: string;
  readonly listen: string;
  readonly local: number;
  /** Base URL of the admin endpoint. */
  readonly admin: string;
  readonly socket: string;
  readonly enter: readonly string[];
}
