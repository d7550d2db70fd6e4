import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import type { TransferEngine } from '../transfer/drive/engine.ts';
import { AccessCheck } from './access/access.ts';
import { BlobEndpoint } from './overlaybd/endpoint.ts';
import { BlobSender } from './http/blob-sender.ts';
import type { ClientOrigin } from './access/client-origin.ts';
import { OpenBlobs } from './access/open-blobs.ts';
import type { UrlClient } from '../registry/url-client.ts';
import type { LocalRoute } from './http/local-server.ts';
import { PassThrough } from './overlaybd/pass-through.ts';
import type { AccessGate, BlobDirectory } from './access/contract.ts';
import { StatCache } from '../registry/stat-cache.ts';

interface Components {
  readonly engine: TransferEngine;
  readonly origin: ClientOrigin;
  readonly urls: UrlClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** See the keys of `local` in docs/CONFIGURATION.md. */
export interface EdgeInit {
  readonly prefix: string;
  readonly accessSeconds: number;
  readonly accessStaleSeconds: number;
}

/**
 * What is served to the programs of this host, and what its other routes need: the gate that they ask before they give away what is
 * cached, blobs by digest, and what sends them.
 */
export interface Edge {
  readonly routes: readonly LocalRoute[];
  readonly access: AccessGate;
  readonly directory: BlobDirectory;
  readonly sender: BlobSender;
}

export function makeEdge(components: Components, init: EdgeInit): Edge {
  const { engine, clock, origin, urls } = components;
  const stats = new StatCache(components, (digest, where, signal) =>
    engine.tree.stat(digest, where, signal),
  );
  const stat = stats.stat.bind(stats);
  const directory = new OpenBlobs({
    tree: engine.tree,
    stat,
    sizeOf: (digest) => origin.sizeOf(digest),
    clock,
  });
  const access: AccessCheck = new AccessCheck(
    {
      ...components,
      stat,
      onSize: (digest, sizeBytes) => origin.learnSize(digest, sizeBytes),
      content: {
        open: (digest, address, signal) => directory.open(digest, address, { signal }),
        read: (blob, offset, length, signal) =>
          engine.read(blob, offset, length, { kind: 'demand', signal }),
      },
    },
    { acceptMs: init.accessSeconds * 1000, staleMs: init.accessStaleSeconds * 1000 },
  );
  const sender = new BlobSender({ ...components, reader: engine });
  const endpoint = new BlobEndpoint(
    {
      ...components,
      access,
      sender,
      directory,
      reader: engine,
      ways: origin,
      passThrough: new PassThrough({ ...components, urls }),
    },
    { prefix: init.prefix },
  );
  return { routes: [endpoint], access, directory, sender };
}
