import type { Digest } from '../image/digest.ts';

/** A block layer of an image: a blob of the cluster, or a file of this host. */
export interface ChainLayer {
  /** Of the blob. A name that no blob has, when there is a file. */
  readonly digest: Digest;
  /** Of the blob, or of the file. */
  readonly sizeBytes: number;
  /**
   * The layer without its tar: containerd downloaded it, since the client that pulled the image
   * does not say where it is from. It is read from there, and never asked of the cluster.
   */
  readonly file?: string;
}

/** The block layers of an image from the bottom up to one of its layers: one device. */
export interface DeviceChain {
  /**
   * The key of the device: chain id of the top layer (OCI image config, "Layer ChainID"), or a name
   * that no other chain has, when layers are files.
   */
  readonly chainId: string;
  /** `host/name[:tag][@digest]`, from labels; empty only when every layer has a file. */
  readonly reference: string;
  /** When labels name it. */
  readonly manifestDigest?: Digest;
  /** Bottom first. */
  readonly layers: readonly ChainLayer[];
}

/** How a device is written: through a folder, or by the client that mounts the device itself. */
export type WritableMode = 'dir' | 'dev';

/** What is written to a device, and how. */
export interface Upper {
  /** Of this host, for the layer alone. */
  readonly folder: string;
  readonly mode: WritableMode;
}

/** Devices that are written, each by one holder. Errors are CodedErrors, as of `ImageDevices`. */
export interface WritableDevices {
  /** Makes the holder's device on top of a chain, or gives the one that it has. */
  hold(
    chain: DeviceChain,
    holder: string,
    upper: Upper,
    signal: AbortSignal,
  ): Promise<{
    /** Where it is mounted; undefined for one that its user mounts. */
    readonly dir: string | undefined;
    readonly device: string;
    readonly options: readonly string[];
  }>;
  /** Ends the device, by force if it is in use. Does nothing for an unknown holder. */
  drop(holder: string): Promise<void>;
  /**
   * Ends the device, and writes its layer as a blob to the file `name` in the upper's folder.
   * Rejects with the code `busy` while the device is in use.
   */
  commit(
    chain: DeviceChain,
    holder: string,
    upper: Upper,
    name: string,
  ): Promise<{ readonly digest: Digest; readonly sizeBytes: number }>;
  /** Removes what is left of a committed layer from its folder. */
  clear(folder: string): Promise<void>;
}

/**
 * The block devices of images, as snapshots use them. Errors are CodedErrors; their code says
 * `not-found`, `not-authorized`, `damaged`, `unreachable`, or what else is wrong.
 */
export interface ImageDevices {
  /**
   * Makes sure that blobs can be read (rights, registry), and have the sizes that the chain says,
   * without a mount: fails fast.
   */
  check(chain: DeviceChain, signal: AbortSignal): Promise<void>;
  /** Makes sure that a blob is none of a device's layers. */
  checkTrace(
    trace: Pick<DeviceChain, 'reference'> & Pick<ChainLayer, 'digest' | 'sizeBytes'>,
    signal: AbortSignal,
  ): Promise<void>;
  /**
   * Mounts the device on first use, and shares it afterwards. `holder` is a snapshot's durable id;
   * the same holder twice is one hold.
   */
  hold(chain: DeviceChain, holder: string, signal: AbortSignal): Promise<{ readonly dir: string }>;
  /** A hold of an earlier process, on a device that is mounted; false when it is not. */
  resume(chain: DeviceChain, holder: string): boolean;
  /** Ends a hold; the last one unmounts. Does nothing for an unknown holder. */
  drop(holder: string): Promise<void>;
}
