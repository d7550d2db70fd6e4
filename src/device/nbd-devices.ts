import { readdirSync, readFileSync } from 'node:fs';

/** A device /dev/nbdN that the kernel reads from a server of this host. */
export interface KernelNbd {
  readonly index: number;
  /** What its server called it when it attached it. */
  readonly identifier: string;
}

/** What the identifiers of Xylem's devices begin with; the folder of the mount follows. */
const IDENTIFIER_PREFIX = 'xylem:';

/** How the device of a mount is called, by the folder of its record. */
export function nbdIdentifier(folder: string): string {
  return `${IDENTIFIER_PREFIX}${folder}`;
}

/** Path of the device. */
export function kernelNbdPath({ index }: Pick<KernelNbd, 'index'>): string {
  return `/dev/nbd${index}`;
}

/** The devices that are attached on this host, by whatever server. Only reads sysfs. */
export function kernelNbds(): KernelNbd[] {
  return readdirSync('/sys/block').flatMap((name) => {
    const index = /^nbd(\d+)$/.exec(name)?.[1];
    if (index === undefined) return [];
    try {
      const identifier = readFileSync(`/sys/block/${name}/backend`, 'utf8').trimEnd();
      return [{ index: Number(index), identifier }];
    } catch {
      return []; // Not attached, or without an identifier.
    }
  });
}

/** The devices of mounts whose records are in a folder, or anywhere, of any process. */
export function nbdsOfMounts(folder = ''): KernelNbd[] {
  const prefix = nbdIdentifier(`${folder}/`);
  return kernelNbds().filter(({ identifier }) => identifier.startsWith(prefix));
}
