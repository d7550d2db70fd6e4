import { hostname } from 'node:os';
import { BLOCK_SIZE_BYTES } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { DistrustList } from '../blockstore/distrust-list.ts';
import { DiskStore } from '../blockstore/disk-store.ts';
import { Leases } from '../blockstore/leases.ts';
import type { DeviceService } from '../device/device-service.ts';
import { peerIdOf, type Identity } from '../net/node/identity.ts';
import { Libp2pTransport } from '../net/libp2p-transport.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Random } from '../runtime/random.ts';
import { NodeCodec } from '../runtime/node/codec.ts';
import { NodeDisk } from '../runtime/node/disk.ts';
import { NodeHash } from '../runtime/node/hash.ts';
import { NodeMac } from '../runtime/node/mac.ts';
import { ed25519Signer } from '../runtime/node/signer.ts';
import type { CoreInit } from '../transfer/core/core-types.ts';
import { TransferEngine } from '../transfer/drive/engine.ts';
import { CHILDREN_MAX } from '../tree/owner/colours.ts';
import { BufferPool } from '../util/buffer-pool.ts';
import { defined } from '../util/assert.ts';
import type { PeerId } from '../util/peer-id.ts';
import { errorText } from '../util/errors.ts';
import { parseListenAddress } from '../registry/hosts.ts';
import { Facts, neighboursOf } from './facts.ts';
import { makeAdminServer, type AdminServer } from './admin/admin-server.ts';
import { BlobAuthority } from '../edge/access/authority.ts';
import { BlobRoots } from '../edge/access/blob-roots.ts';
import { KeptVerdicts } from '../edge/access/kept-verdicts.ts';
import { OpaqueAuthority } from '../edge/access/opaque-authority.ts';
import { OpaqueBlobs } from '../edge/access/opaque-blobs.ts';
import { UrlProbe } from '../edge/access/url-probe.ts';
import { WayOrigin } from '../edge/access/way-origin.ts';
import { Ways } from '../edge/access/ways.ts';
import type { Config } from './config/config-schema.ts';
import type { OpenBlobGate } from '../edge/access/gate.ts';
import { makeEdge } from '../edge/edge.ts';
import { makeAcceleration, type Acceleration } from './acceleration/acceleration.ts';
import { ImageMounts } from './admin/image-mounts.ts';
import { makeDeviceSocket, type DeviceSocket } from './device-socket/device-socket.ts';
import { ClusterKeyFile, loadIdentitySeed } from './cluster/key-files.ts';
import { LocalServer } from '../edge/http/local-server.ts';
import { ManifestCache } from '../edge/mirror/manifest-cache.ts';
import { Manifests } from '../edge/mirror/manifests.ts';
import { ClusterPreheats } from '../preheat/preheats.ts';
import { PromMetrics } from './admin/prom-metrics.ts';
import { RegistryAccess } from '../registry/registry-access.ts';
import { HostBook } from './cluster/host-book.ts';
import { addressWatch, ownAddresses, type OwnAddresses } from './cluster/own-addresses.ts';
import { usableListen } from './cluster/p2p-listen.ts';
import { ownHost } from './cluster/own-host.ts';
import { BelievedRoots, loadRootTrust } from './cluster/believed-roots.ts';
import { RootPresence, type OwnCard } from './cluster/root-presence.ts';
import { RootFinder, type FoundRoot } from './cluster/root-finder.ts';
import { makeMirror } from './mirror.ts';
import { AgentReadiness } from './readiness.ts';
import type { Service } from './run.ts';
import { StoreAdmin } from './admin/store-service.ts';

/** Slabs kept for reuse beyond those in use: 32 x 256 KiB = 8 MiB. */
const POOL_FREE_MAX = 32;

interface AgentComponents {
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random: Random;
}

/**
 * Builds the agent of a host from its configuration: the one place where the real parts meet.
 * Throws KeyFileError.
 */
export async function createAgent(config: Config, components: AgentComponents): Promise<Service> {
  const p2p = { ...config.p2p, listen: await usableListen(config.p2p.listen) };
  const where = { ...p2p, roots: [...config.roots, ...config.relays] };
  const own = await ownAddresses(components, where);
  const plane = makeDataPlane({ ...config, p2p }, components, own);
  const refresh = addressWatch(components, where, plane.card);
  return new Agent(config, {
    ...components,
    plane,
    refresh,
    devices: await makeDevices(config, components, plane),
  });
}

/** What moves blocks. */
interface DataPlane {
  readonly self: FoundRoot;
  readonly card: OwnCard;
  readonly book: HostBook;
  readonly believed: BelievedRoots;
  readonly store: DiskStore;
  readonly leases: Leases;
  readonly distrust: DistrustList;
  readonly transport: Libp2pTransport;
  readonly registries: RegistryAccess;
  readonly ways: Ways;
  readonly probe: UrlProbe;
  readonly opaque: OpaqueBlobs;
  readonly roots: BlobRoots;
  readonly kept: KeptVerdicts;
  readonly engine: TransferEngine;
  readonly preheats: ClusterPreheats;
  readonly manifestCache: ManifestCache;
  readonly manifests: Manifests;
  readonly acceleration: Acceleration | undefined;
  readonly codec: NodeCodec;
  readonly hash: NodeHash;
  readonly metrics: PromMetrics;
}

function makeDataPlane(config: Config, components: AgentComponents, own: OwnAddresses): DataPlane {
  const seed = loadIdentitySeed(config.identity.keyFile, components);
  const signer = ed25519Signer(seed);
  const metrics = new PromMetrics({ processMetrics: true });
  const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: POOL_FREE_MAX });
  const [codec, hash, mac] = [new NodeCodec(), new NodeHash(), new NodeMac()];
  const shared = { ...components, metrics, pool, hash, mac };
  const disk = new NodeDisk({ root: config.store.dir });
  const store = new DiskStore({ ...shared, disk, codec }, { quotaBytes: config.store.quota });
  const leases = new Leases({ ...shared, disk, store });
  const distrust = new DistrustList({ ...shared, disk });
  const { transport, believed } = makeNetwork(config, shared, { ...signer, seed });
  const registries = new RegistryAccess(shared, { ...config, variables: process.env });
  const { urls, origin: inner } = registries;
  const [ways, probe] = [new Ways(shared), new UrlProbe({ urls })];
  const access = { registries, ways, probe, engine: () => engine };
  const { opaque, opaqueAuthority, onChanged } = makeOpaque(config, { ...shared, ...access });
  const told = { onChanged, onUnsound: (key: Digest) => roots.forget(key) };
  const origin = new WayOrigin({ ...shared, inner, urls, ways, ...told });
  const { host, self, named } = ownHost(config, own, { ...signer, peer: transport.self });
  const engine = new TransferEngine(
    { ...shared, transport, store, origin, distrust, signer },
    {
      self: host,
      role: config.role,
      // Above every epoch that an earlier run of this host gave out.
      topology: { epochBase: components.clock.wallMs() },
      ...{ roots: [], rootKeys: [] },
      blocks: blockLimits(config.limits),
    },
  );
  const preheats = new ClusterPreheats(
    { ...shared, transport, engine, origin, askRoots: engine.tree.askRoots, store, codec },
    { role: config.role, zone: config.zone, quotaBytes: config.store.quota },
  );
  const manifestCache = new ManifestCache({ ...shared, disk });
  const acceleration = makeAcceleration(config, { ...shared, registries, disk, engine, host });
  const [isRemoved, askRoots] = [acceleration?.isRemoved, engine.tree.askRoots];
  inner.keepManifests(manifestCache);
  const manifests = new Manifests(
    { ...shared, cache: manifestCache, origin: inner, transport, askRoots, isRemoved },
    {
      self: host.peer,
      role: config.role,
      tagMs: config.mirror.tagSeconds * 1000,
      staleMs: config.mirror.staleTagSeconds * 1000,
    },
  );
  const kept = new KeptVerdicts({ ...shared, disk });
  const roots = makeRoots(config, {
    ...shared,
    ...{ transport, registries, engine, ways, probe, opaque: opaqueAuthority },
  });
  const book = new HostBook({ ...shared, transport }, { self: named });
  const tree = {
    ...engine.tree.handlers,
    ...engine.wrong.handlers,
    manifest: manifests.answer.bind(manifests),
    presence: book.answer.bind(book),
    'open-blob': roots.answer.bind(roots),
  };
  transport.serve({
    block: engine.blockServer,
    calls: { ...preheats.handlers, ...(config.role !== 'child' && tree) },
  });
  const verdicts = { believed, store, leases, distrust, kept };
  const moved = { transport, registries, ways, probe, roots, engine, preheats };
  const made = { codec, hash, metrics, manifestCache, manifests, opaque, acceleration };
  return { self, card: host, book, ...made, ...verdicts, ...moved };
}

/** What knows blobs without a digest: of this host's clients, and of a root's cluster. */
function makeOpaque(
  { local }: Config,
  components: AgentComponents &
    Pick<DataPlane, 'registries' | 'ways' | 'probe' | 'hash'> & {
      readonly engine: () => TransferEngine;
    },
) {
  const { registries, engine, logger } = components;
  const onChanged = (key: Digest): void => {
    opaque.forget(key);
    opaqueAuthority.forget(key);
    const dropped = engine().drop(key);
    dropped.catch((error: unknown) => {
      const fields = { blob: key, error: errorText(error) };
      logger.warn(fields, 'blocks of a blob that changed at its source could not be dropped');
    });
  };
  const parts = { ...components, sources: registries.sources, onChanged };
  const opaque = new OpaqueBlobs(parts, {
    acceptMs: local.accessSeconds * 1000,
    staleMs: local.accessStaleSeconds * 1000,
  });
  const opaqueAuthority = new OpaqueAuthority({
    ...parts,
    onFound: (blob, origin) => {
      engine().tree.origins.found(blob.digest, origin);
      return engine().confirm(blob);
    },
  });
  return { opaque, opaqueAuthority, onChanged };
}

/** Whom this host asks about blobs, and, on a root, what decides for the cluster. */
function makeRoots(
  config: Config,
  components: AgentComponents &
    Pick<DataPlane, 'transport' | 'registries' | 'engine' | 'ways' | 'probe' | 'hash'> & {
      readonly opaque: OpaqueAuthority;
    },
): BlobRoots {
  const { transport, registries, engine } = components;
  const authority =
    config.role === 'root'
      ? new BlobAuthority({
          ...components,
          sources: registries.sources,
          stat: (...asked) => registries.origin.stat(...asked),
          onFound: (blob, { digest, origin }) => {
            const content = blob.digest === digest ? {} : { content: digest };
            engine.tree.origins.found(blob.digest, { ...origin, ...content });
            return engine.confirm(blob);
          },
        })
      : undefined;
  const notices = engine.wrong;
  return new BlobRoots(
    { ...components, notices, authority },
    { self: transport.self, role: config.role },
  );
}

/** What talks to other agents, and knows which of them are believed as roots. */
function makeNetwork(
  config: Config,
  shared: ConstructorParameters<typeof Libp2pTransport>[0] & { readonly hash: NodeHash },
  identity: Identity,
): Pick<DataPlane, 'transport' | 'believed'> {
  const clusterKeys = new ClusterKeyFile(shared, { file: config.cluster.keyFile });
  const { certificate, ...trust } = loadRootTrust(config, peerIdOf(identity));
  const transport = new Libp2pTransport(shared, {
    identity,
    ...(config.role === 'root' && { certificate }),
    ...config.p2p,
    clusterKeys: () => clusterKeys.keys(),
  });
  const believed = new BelievedRoots({ ...shared, peers: () => transport.peers() }, trust);
  return { transport, believed };
}

/** Loads the code of devices only where there are any. */
async function makeDevices(
  config: Config,
  components: AgentComponents,
  { engine, codec, metrics, believed }: DataPlane,
): Promise<DeviceService | undefined> {
  if (!config.device.enabled) return undefined;
  const { DeviceService } = await import('../device/device-service.ts');
  const digestsOf = (digest: Digest) => engine.verifier.digestsOf(digest)?.blockDigests;
  const store = { dir: config.store.dir, untrustedSigners: believed.untrustedKeys, digestsOf };
  const init = { ...config.device, store };
  return new DeviceService({ ...components, reader: engine, codec, metrics }, init);
}

/**
 * An agent. Life: constructed -> `start()`, in this order: admin endpoint, store, what is
 * kept beside it, network, block logic, finders of roots and relays, devices, local endpoint ->
 * `stop()`, from the outside in; each part stops whether or not the others run.
 */
class Agent implements Service {
  readonly saysReady = true;
  readonly #config: Config;
  readonly #logger: Logger;
  readonly #plane: DataPlane;
  /** The roots, and the relays where there are any. */
  readonly #finders: readonly RootFinder[];
  readonly #presence: RootPresence;
  readonly #devices: DeviceService | undefined;
  readonly #deviceSocket: DeviceSocket | undefined;
  readonly #local: LocalServer;
  readonly #gate: OpenBlobGate;
  readonly #admin: AdminServer;
  readonly #found: { root: readonly FoundRoot[]; relay: readonly FoundRoot[] } = {
    root: [],
    relay: [],
  };
  readonly #readiness: AgentReadiness;
  #areAway = false;

  constructor(
    config: Config,
    components: AgentComponents & {
      plane: DataPlane;
      refresh: () => Promise<boolean>;
      devices: DeviceService | undefined;
    },
  ) {
    const { logger, clock, plane } = components;
    this.#config = config;
    this.#logger = logger;
    this.#plane = plane;
    const { engine, transport, metrics, self } = plane;
    const finder = (role: 'root' | 'relay', entries: readonly string[]): RootFinder =>
      new RootFinder(
        { transport, clock, logger },
        {
          entries,
          self: config.role === role ? self : undefined,
          onChange: (found) => this.#onFound(role, found),
          ...(role === 'root' && {
            trust: plane.believed,
            onLook: (found: readonly FoundRoot[]) => this.#onLook(found),
          }),
        },
      );
    const hasRelays = config.role === 'relay' || config.relays.length > 0;
    this.#finders = [
      finder('root', config.roots),
      ...(hasRelays ? [finder('relay', config.relays)] : []),
    ];
    this.#devices = components.devices;
    this.#presence = this.#makePresence(components);
    this.#readiness = this.#makeReadiness();
    engine.tree.askRoots.health.onSilent = (peer) => this.#presence.silent(peer);
    const { urls } = plane.registries;
    const registries = config.registries.map(({ host }) => host);
    const edge = makeEdge({ ...components, ...plane, urls }, { ...config.local, registries });
    this.#gate = edge.gate;
    const mirror = makeMirror({ ...components, ...plane }, config, edge);
    this.#local = new LocalServer(
      { routes: [mirror, ...edge.routes], clock, metrics },
      {
        listen: listenAddress(config.local.listen),
        connectionsMax: config.local.connectionsMax,
      },
    );
    const mounts = this.#devices && new ImageMounts({ ...plane, devices: this.#devices, logger });
    this.#deviceSocket = makeDeviceSocket({ ...components, ...plane }, config);
    const store = new StoreAdmin({
      store: plane.store,
      resolve: (reference) => engine.tree.resolve(reference),
    });
    const { preheats, acceleration } = plane;
    const facts = this.#makeFacts({ ...components, mounts });
    const services = {
      status: this.#readiness,
      agent: facts,
      metrics,
      store,
      preheats,
      acceleration,
    };
    this.#admin = makeAdminServer(
      { ...services, ...(mounts !== undefined && { mounts }), clock, logger },
      config.admin,
    );
  }

  async start(): Promise<void> {
    const { store, transport, engine, self } = this.#plane;
    await this.#admin.start();
    await this.#plane.leases.start();
    await store.start();
    await this.#plane.distrust.start();
    this.#plane.believed.start();
    engine.verifier.distrust(this.#plane.believed.untrustedKeys);
    engine.verifier.trust(this.#plane.believed.keys());
    await this.#plane.manifestCache.start();
    await this.#plane.kept.start();
    if (this.#config.role === 'root') await this.#plane.registries.warm();
    await transport.start();
    engine.start();
    await Promise.all(this.#finders.map((finder) => finder.start()));
    await this.#deviceSocket?.start();
    await this.#devices?.start();
    await this.#local.start();
    await this.#plane.acceleration?.start();
    const fields = { peer: self.peer, role: this.#config.role, admin: this.#admin.url };
    this.#logger.info(fields, 'started');
    this.#readiness.enter('running');
  }

  async stop(): Promise<void> {
    this.#readiness.enter('stopping');
    for (const finder of this.#finders) finder.stop();
    this.#presence.stop();
    this.#plane.book.stop();
    await this.#local.stop();
    this.#gate.stop();
    await this.#deviceSocket?.stop();
    await this.#devices?.stop();
    await this.#plane.acceleration?.stop();
    await this.#plane.preheats.stop();
    await this.#plane.engine.stop();
    await this.#plane.registries.close();
    await this.#plane.transport.stop();
    await this.#plane.manifestCache.stop();
    await this.#plane.distrust.stop();
    await this.#plane.kept.stop();
    await this.#plane.leases.stop();
    await this.#plane.store.stop();
    await this.#admin.stop();
  }

  #makePresence(
    components: AgentComponents & { readonly refresh: () => Promise<boolean> },
  ): RootPresence {
    const { transport, metrics, card } = this.#plane;
    return new RootPresence(
      { ...components, transport, metrics },
      {
        card,
        name: hostname(),
        refresh: components.refresh,
        capacity: CHILDREN_MAX,
        neighbours: () => neighboursOf(this.#plane),
        onChange: () => this.#onPresence(),
      },
    );
  }

  #makeReadiness(): AgentReadiness {
    return new AgentReadiness({ logger: this.#logger }, this.#config.role, {
      notServed: () => this.#presence.notServed(),
      notReached: () => this.#presence.notReached(),
      joinRefusal: () => this.#plane.engine.tree.joinRefusal,
      notices: () => this.#presence.notices(),
    });
  }

  #makeFacts({ clock, mounts }: AgentComponents & { mounts: ImageMounts | undefined }): Facts {
    const [readiness, presence] = [this.#readiness, this.#presence];
    const { book } = this.#plane;
    const nameOf = (peer: PeerId) => book.nameOf(peer) ?? presence.nameOf(peer);
    return new Facts({ ...this.#plane, clock, readiness, presence, nameOf, mounts }, this.#config);
  }

  #onFound(role: 'root' | 'relay', found: readonly FoundRoot[]): void {
    this.#logger.info({ role, peers: found.map(({ peer }) => peer) }, 'found');
    this.#found[role] = found;
    const { root: roots, relay: relays } = this.#found;
    this.#plane.believed.found(roots);
    this.#tellUpstreams();
    this.#plane.preheats.setRoots(roots);
    this.#presence.setRoots(roots, relays);
    if (roots.length > 0) this.#readiness.found();
  }

  #onPresence(): void {
    this.#readiness.changed();
    if (this.#config.role === 'child' && this.#presence.areAllAway !== this.#areAway) {
      this.#areAway = this.#presence.areAllAway;
      this.#tellUpstreams();
    }
  }

  /** While no root answers, a host goes on as if it had found none: nothing waits for them. */
  #tellUpstreams(): void {
    const { manifests, roots, engine, believed } = this.#plane;
    const { root, relay } = this.#found;
    const upstreams = this.#areAway ? { roots: [], relays: [] } : { roots: root, relays: relay };
    manifests.setUpstreams(upstreams);
    roots.setUpstreams(upstreams);
    this.#gate.rootsChanged();
    engine.setUpstreams(upstreams, believed.keys());
  }

  /** Roots that are known by their address alone are believed for as long as they are there. */
  #onLook(found: readonly FoundRoot[]): void {
    const isComplete = this.#finders[0]?.isComplete === true;
    this.#plane.book.setRoots(isComplete ? found.map(({ peer }) => peer) : undefined);
    this.#plane.believed.found(found);
    this.#plane.engine.verifier.trust(this.#plane.believed.keys());
  }
}

function blockLimits(limits: Config['limits']): Partial<CoreInit> {
  const { uploadBytesPerSecond, downloadBytesPerSecond, originReads } = limits;
  return { uploadBytesPerSecond, downloadBytesPerSecond, originOutstandingMax: originReads };
}

function listenAddress(text: string): { host: string; port: number } {
  return defined(parseListenAddress(text), 'the configuration was checked');
}
