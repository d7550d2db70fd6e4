import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { readMountTable, type MountEntry } from '../mount-table.ts';

/** Most holders that are named: enough to go on with. */
const HOLDERS_MAX = 8;

/** Most processes that are looked at, and most open files of each. */
const PROCESSES_MAX = 16_384;
const FILES_MAX = 1_024;

/** What is mounted, and where. */
interface HeldPlace {
  readonly target: string;
  /** The devices, or the file, that it is mounted from. */
  readonly sources: readonly string[];
}

/**
 * The users of a mount, in words: other mounts of it, processes with files in it, and mount
 * namespaces that have a copy of it. Looks at the tables of the kernel alone, so that it waits for
 * no read.
 */
export function holdersOf(place: HeldPlace): readonly string[] {
  const found = mountsOn(place, readMountTable())
    .filter(({ mountPoint }) => mountPoint !== place.target)
    .map(({ mountPoint }) => `the mount at ${mountPoint}`);
  const own = namespaceOf('self');
  const namespaces = new Set([own, '']);
  for (const pid of processes()) {
    if (found.length >= HOLDERS_MAX) break;
    const namespace = namespaceOf(pid);
    if (namespace === own) {
      if (usesFiles(pid, place.target)) found.push(`process ${pid} (${nameOf(pid)})`);
    } else if (!namespaces.has(namespace)) {
      namespaces.add(namespace);
      const has = mountsOn(place, tableOf(pid)).length > 0;
      if (has) found.push(`the mount namespace of process ${pid} (${nameOf(pid)})`);
    }
  }
  return found.slice(0, HOLDERS_MAX);
}

function mountsOn({ target, sources }: HeldPlace, table: readonly MountEntry[]): MountEntry[] {
  const isOver = ({ type, options }: MountEntry): boolean =>
    type === 'overlay' && options.split(/[,:=]/).includes(target);
  return table.filter((entry) => sources.includes(entry.source) || isOver(entry));
}

function processes(): readonly number[] {
  const names = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return names.slice(0, PROCESSES_MAX).map(Number);
}

function usesFiles(pid: number, target: string): boolean {
  const paths = ['cwd', 'root', 'exe', ...filesOf(pid)];
  return paths.some((name) => {
    const path = linkAt(`/proc/${pid}/${name}`);
    return path === target || path.startsWith(`${target}/`);
  });
}

function filesOf(pid: number): readonly string[] {
  try {
    const names = readdirSync(`/proc/${pid}/fd`).slice(0, FILES_MAX);
    return names.map((name) => `fd/${name}`);
  } catch {
    return []; // It has ended.
  }
}

function tableOf(pid: number): readonly MountEntry[] {
  try {
    return readMountTable(pid);
  } catch {
    return [];
  }
}

function namespaceOf(pid: number | 'self'): string {
  return linkAt(`/proc/${pid}/ns/mnt`);
}

/** Empty when there is none, its process has ended, or may not be looked at. */
function linkAt(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

function nameOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return 'ended';
  }
}
