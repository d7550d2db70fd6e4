import { readFileSync } from 'node:fs';

/** A line of the table of mounts that this process sees. */
export interface MountEntry {
  readonly mountPoint: string;
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
    const mountPoint = before?.split(' ')[4];
    const [type, source, options = ''] = after?.split(' ') ?? [];
    if (mountPoint === undefined || type === undefined || source === undefined) continue;
    entries.push({
      ...{ mountPoint: unescape(mountPoint), type },
      ...{ source: unescape(source), options: unescape(options) },
    });
  }
  return entries;
}

/** The current mounts. Touches none of them. */
export function readMountTable(): MountEntry[] {
  return parseMountTable(readFileSync('/proc/self/mountinfo', 'utf8'));
}

function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}
