import { z } from 'zod';
import {
  ACCELERATION_FAILURES,
  ACCELERATION_STATES,
  ACCELERATION_TYPES,
  BELONGING_KINDS,
} from '../../acceleration/messages.ts';
import { parseDigest, type Digest } from '../../image/digest.ts';
import { PREHEAT_FAILURES, PREHEAT_PARTS, PREHEAT_STATES } from '../../preheat/messages.ts';
import type { PeerId } from '../../util/peer-id.ts';

/**
 * What the routes of the admin endpoint answer with. The descriptions are those of docs/ADMIN.md.
 */

const digest = z
  .custom<Digest>((value) => typeof value === 'string' && parseDigest(value) !== undefined)
  .meta({ type: 'string' });
const peer = z.custom<PeerId>((value) => typeof value === 'string').meta({ type: 'string' });
const count = z.int().min(0);
const bytes = z.int().min(0);
const wallMs = z.number().describe('milliseconds since 1970');

/** A host as people know it. */
export const hostName = z
  .object({
    peer: z.string(),
    name: z.string().describe('what the host calls itself; empty when it is not known'),
    zone: z.string(),
    address: z.string().describe('the multiaddr at which it is dialled first'),
  })
  .readonly();
/** A host as people know it, as `hostName` reads it. */
export type ShownHost = z.output<typeof hostName>;

/** An image mounted on this host. */
export const mountedImage = z
  .object({
    image: z.string().describe('as the user named it'),
    digest,
    dir: z.string().describe('where it is mounted, absolute'),
    device: z.string().describe('the block device under it, such as `/dev/loop3`'),
    sizeBytes: bytes,
  })
  .readonly();
/** A mounted image, as `mountedImage` reads it. */
export type MountedImage = z.output<typeof mountedImage>;

/** Facts about a running agent, for people and scripts. */
export const agentStatus = z
  .object({
    version: z.string(),
    role: z.enum(['root', 'relay', 'child']),
    peer: z.string(),
    zone: z.string(),
    addresses: z.array(z.string()).readonly().describe('multiaddrs that it tells others'),
    uptimeSeconds: z.number(),
    state: z.enum(['ready', 'not ready']),
    notReady: z.string().exactOptional().describe('why it is not ready; absent when it is'),
    notices: z
      .array(z.string())
      .readonly()
      .describe('what is wrong all the same, such as that another host has its identity'),
    roots: z
      .array(
        z
          .object({
            peer: z.string(),
            host: z.string().describe('its zone and name, as far as it is known'),
            address: z.string(),
            answers: z.boolean(),
            reason: z.string().exactOptional().describe('why it does not answer'),
          })
          .readonly(),
      )
      .readonly()
      .describe('roots, and relays of its group, but itself'),
    peers: z.array(z.string()).readonly().describe('peers that it has a connection to'),
    hosts: z.array(hostName).readonly().describe('who these peers are, as far as it knows'),
    store: z
      .object({
        dir: z.string(),
        quotaBytes: bytes,
        sizeBytes: bytes,
        blobCount: count,
        blockCount: count,
        writeTrouble: z
          .string()
          .optional()
          .describe('why it keeps no more blocks; absent while it does'),
      })
      .readonly(),
    mounts: z
      .array(mountedImage)
      .readonly()
      .describe('images that it has mounted itself; those of `xylem device` are known to that'),
    failedReads: count.describe('reads of this host that failed since the start'),
    bytesBySource: z
      .record(z.string(), z.number())
      .readonly()
      .describe(
        'bytes since the start by source: memory, disk, parent, alternate, root, origin, ' +
          'fallback, own-way',
      ),
  })
  .readonly();
/** What an agent answers about itself. */
export type AgentStatus = z.output<typeof agentStatus>;

/** The place of this host in the tree of one stripe. */
export const treeStatus = z
  .object({
    digest,
    stripe: count,
    epoch: z.number(),
    path: z
      .array(z.string())
      .readonly()
      .describe('peers from the parent to the owner; empty at the owner itself'),
    alternates: z.array(z.string()).readonly(),
    children: z.array(z.string()).readonly(),
  })
  .readonly();
/** The place of a host in one tree, as `treeStatus` reads it. */
export type TreeStatus = z.output<typeof treeStatus>;

/** Blocks of a blob in the store of this host. */
export const heldBlob = z
  .object({
    digest,
    sizeBytes: bytes,
    blocks: z
      .array(z.tuple([count, count]).readonly())
      .readonly()
      .describe('runs of [first index, count], ascending'),
  })
  .readonly();
/** Held blocks of a blob, as `heldBlob` reads it. */
export type HeldBlob = z.output<typeof heldBlob>;

/** A block device that containers use: HeldDevice of src/device/image-devices.ts. */
export const containerDevice = z
  .object({
    image: z.string().describe('as the container runtime named it'),
    chainId: digest.describe('of its block layers'),
    dir: z.string().describe('where it is mounted'),
    device: z.string().describe('the block device under it, such as `/dev/loop3`'),
    sizeBytes: bytes,
    holders: z
      .array(z.string())
      .readonly()
      .describe("snapshots that use it, by containerd's keys `namespace/sequence/key`"),
    writable: z
      .enum(['dir', 'dev'])
      .exactOptional()
      .describe('for one container that writes to it, and how'),
    refused: z
      .object({
        count: count.describe('unmounts that were tried'),
        reason: z.string().describe('who uses it, as far as that can be seen'),
      })
      .readonly()
      .exactOptional()
      .describe('when nobody holds it, and it cannot be unmounted all the same'),
    reads: z
      .object({
        touchedBytes: bytes.describe('distinct bytes of the device'),
        storeBytes: bytes.describe('read from the files of the store'),
        memoryBytes: bytes,
        fetchedBytes: bytes.describe('had from the agent'),
        stalled: count.describe('reads that waited for longer than a second'),
        waiting: count.describe('reads that wait now'),
        failed: count.describe('reads that ended with EIO'),
      })
      .readonly()
      .describe('since the process took the device'),
  })
  .readonly();
/** A device, as `containerDevice` reads it. */
export type ContainerDevice = z.output<typeof containerDevice>;

/** What the store has of a blob, and why it keeps it: BlobUsage of src/blockstore/store.ts. */
export const blobUsage = z
  .object({
    digest,
    sizeBytes: bytes.exactOptional().describe('of the whole blob; absent when nothing is held'),
    heldBytes: bytes,
    blockCount: count,
    keep: z.enum(['plain', 'mounted', 'pinned']),
    pinned: z.boolean(),
    mounted: z.boolean(),
    lastUseMs: wallMs
      .exactOptional()
      .describe('milliseconds since 1970 of the last use; absent when nothing is held'),
  })
  .readonly();
/** Blocks of a blob and what keeps them, as `blobUsage` reads it. */
export type BlobUsage = z.output<typeof blobUsage>;

/** The blobs that a pin or its end came to. */
export const pinned = z.object({ digests: z.array(digest).readonly() }).readonly();

/** What a collection freed. */
export const evicted = z.object({ blockCount: count, sizeBytes: bytes }).readonly();

const progress = {
  state: z.enum(PREHEAT_STATES),
  failure: z.enum(PREHEAT_FAILURES).exactOptional(),
};

/** A preheat as the root that leads it knows it: PreheatJob of src/preheat/messages.ts. */
export const preheatJob = z
  .object({
    id: z.string().describe('32 hex digits'),
    spec: z
      .object({
        reference: z.string().describe('`host[:port]/name[:tag][@digest]`'),
        part: z.enum(PREHEAT_PARTS),
        pin: z.boolean(),
        zone: z.string().exactOptional(),
        count: count.exactOptional(),
      })
      .readonly(),
    ...progress,
    reason: z
      .string()
      .exactOptional()
      .describe('why it failed, in words; of hosts, why the first of them did'),
    missing: z
      .array(
        z
          .object({
            digest,
            isForeign: z.boolean().describe('the image says that it is to be had elsewhere'),
          })
          .readonly(),
      )
      .readonly()
      .describe('what the registry has not got; the hosts have the rest'),
    digest: digest.exactOptional().describe('of the manifest; absent until it is known'),
    startedMs: wallMs,
    finishedMs: wallMs.exactOptional(),
    hosts: z
      .array(
        z
          .object({
            peer,
            zone: z.string(),
            ...progress,
            doneBytes: bytes,
            totalBytes: bytes.describe('0 until it is known'),
          })
          .readonly(),
      )
      .readonly(),
  })
  .readonly();

/** What a root keeps in registries: Kept of src/acceleration/messages.ts. */
export const keptInRegistries = z
  .object({
    things: z
      .array(
        z
          .object({
            repository: z.string().describe('`host[:port]/name`'),
            kind: z
              .enum(BELONGING_KINDS)
              .describe('`image`: a block image, or an index of them; `layer`: kept for later'),
            digest: digest.describe('of the manifest'),
            subject: digest.exactOptional().describe('of an image: the original'),
            tag: z.string().exactOptional().describe('of a layer'),
            sizeBytes: bytes.describe('of its blobs, which others may name too'),
            idleMs: wallMs.exactOptional().describe('since when nothing needs it'),
            removeMs: wallMs
              .exactOptional()
              .describe('when it is removed, if nothing needs it until then'),
            reason: z.string().exactOptional().describe('why it was not removed'),
          })
          .readonly(),
      )
      .readonly(),
    sizeBytes: bytes.describe('of all blobs, each counted once in a repository'),
  })
  .readonly();

/** An image that is accelerated: AcceleratedImage of src/acceleration/messages.ts. */
export const acceleratedImage = z
  .object({
    image: z.string().describe('`host[:port]/name:tag`'),
    accelerationType: z.enum(ACCELERATION_TYPES),
    state: z.enum(ACCELERATION_STATES).exactOptional().describe('absent with `None`'),
    sourceDigest: digest
      .exactOptional()
      .describe('what the tag stood for when the registry was last asked'),
    ready: z
      .object({
        sourceDigest: digest,
        images: z
          .array(z.object({ platform: z.string(), sourceDigest: digest, digest }).readonly())
          .readonly()
          .describe('the block image of each platform, and the manifest that it was made of'),
        layerTags: z
          .array(z.string())
          .readonly()
          .exactOptional()
          .describe('of the kept layers that it was made of'),
        readyMs: wallMs,
        seconds: z.number().describe('how long the conversion took'),
      })
      .readonly()
      .exactOptional()
      .describe('the last version that was ready; usable until the next one is'),
    failure: z
      .object({ kind: z.enum(ACCELERATION_FAILURES), reason: z.string() })
      .readonly()
      .exactOptional()
      .describe('why the last attempt failed'),
    failures: count.describe('attempts that failed in a row'),
    progress: z
      .object({ step: z.string(), doneBytes: bytes, totalBytes: bytes })
      .readonly()
      .exactOptional()
      .describe('of the conversion that runs'),
    requestedMs: wallMs,
    lookedMs: wallMs
      .exactOptional()
      .describe('when the registry last told what the tag stands for'),
    startedMs: wallMs.exactOptional().describe('when the last conversion started'),
    finishedMs: wallMs.exactOptional(),
    nextMs: wallMs
      .exactOptional()
      .describe('when the tag is looked at again, or the attempt repeated'),
  })
  .readonly();

/** A preheat as Dragonfly 1 tells it. */
export const dragonfly1Job = z.object({
  ID: z.string(),
  status: z.enum(['WAITING', 'RUNNING', 'SUCCESS', 'FAILED']),
  startTime: z.string(),
  finishTime: z.string().exactOptional(),
  errorMsg: z.string(),
});

/** A preheat as the open API of Dragonfly 2 tells it. */
export const dragonfly2Job = z.object({
  id: z.number().describe('the first 52 bits of the id of the preheat'),
  type: z.literal('preheat'),
  created_at: z.string(),
  updated_at: z.string(),
  state: z.enum(['PENDING', 'SUCCESS', 'FAILURE']),
  result: z.object({
    job_states: z.array(z.object({ error: z.string(), results: z.array(z.string()) })),
  }),
});
