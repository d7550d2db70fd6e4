import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { TransferEngine } from '../transfer/drive/engine.ts';
import { registryName } from '../registry/reference.ts';
import type { UrlClient } from '../registry/url-client.ts';
import type { BlobRoots } from './access/blob-roots.ts';
import { OpenBlobGate } from './access/gate.ts';
import type { KeptVerdicts } from './access/kept-verdicts.ts';
import type { OpaqueBlobs } from './access/opaque-blobs.ts';
import type { UrlProbe } from './access/url-probe.ts';
import type { Ways } from './access/ways.ts';
import { BlobSender } from './http/blob-sender.ts';
import type { LocalRoute } from './http/local-server.ts';
import { BlobEndpoint } from './overlaybd/endpoint.ts';
import { PassThrough } from './overlaybd/pass-through.ts';

interface Components {
  readonly engine: TransferEngine;
  readonly roots: BlobRoots;
  readonly kept: KeptVerdicts;
  readonly opaque: OpaqueBlobs;
  readonly ways: Ways;
  readonly probe: UrlProbe;
  readonly urls: UrlClient;
  readonly clock: Clock;
  readonly hash: Hash;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** See the keys of `local` in docs/CONFIGURATION.md. */
export interface EdgeInit {
  readonly prefix: string;
  readonly accessSeconds: number;
  readonly accessStaleSeconds: number;
  /** Registries that the configuration names. */
  readonly registries: readonly string[];
}

/**
 * What is served to the programs of this host, and what its other routes need: the gate of blobs,
 * and what sends them.
 */
export interface Edge {
  readonly routes: readonly LocalRoute[];
  readonly gate: OpenBlobGate;
  readonly sender: BlobSender;
}

/**
 * Puts the parts together that serve overlaybd; the mirror is another route over the same gate and
 * sender.
 */
export function makeEdge(components: Components, init: EdgeInit): Edge {
  const { engine, urls } = components;
  const gate = new OpenBlobGate(
    { ...components, trees: engine.tree, health: engine.tree.askRoots.health },
    { acceptMs: init.accessSeconds * 1000, staleMs: init.accessStaleSeconds * 1000 },
  );
  const sender = new BlobSender({ ...components, reader: engine });
  const configured = new Set(init.registries.map(registryName));
  const passThrough = new PassThrough({ ...components, urls });
  const endpoint = new BlobEndpoint(
    { ...components, gate, sender, reader: engine, passThrough },
    { prefix: init.prefix, isConfigured: (host) => configured.has(registryName(host)) },
  );
  return { routes: [endpoint], gate, sender };
}
