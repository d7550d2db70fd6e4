import { readFileSync } from 'node:fs';

/** A line of the table of mounts that this process sees. */
export interface MountEntry {
  readonly mountPoint: string;
  /** Number of the filesystem's device, as `major:minor`. */
  readonly device: string;
  readonly type: string;
  readonly source: string;
  /** Of the filesystem. */
  readonly options: string;
}

/**
 * Parses the text of /proc/self/mountinfo (proc(5)), with blanks, tabs, line ends and backslashes
 * in octal. Ignores lines of another form.
 *
 *     id parent maj:min root MOUNT-POINT options [tags] - TYPE SOURCE OPTIONS
 */
export function parseMountTable(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const [before, after] = line.split(' - ', 2);
    const [, , device = '', , mountPoint] = before?.split(' ') ?? [];
    const [type, source, options = ''] = after?.split(' ') ?? [];
    if (mountPoint === undefined || type === undefined || source === undefined) continue;
    entries.push({
      ...{ mountPoint: unescape(mountPoint), device, type },
      ...{ source: unescape(source), options: unescape(options) },
    });
  }
  return entries;
}

/** The current mounts, as this process or another one sees them. Touches none of them. */
export function readMountTable(pid: number | 'self' = 'self'): MountEntry[] {
  return parseMountTable(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'));
}

function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}
