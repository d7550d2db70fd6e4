import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { releaseProgramPages, unchangedMappings } from '../../src/device/program-pages.ts';
import { describeWith } from '../support/requires.ts';

const mapping = (head: string, residentKib: number, anonymousKib: number): string =>
  `${head}\nSize: 9000 kB\nRss: ${residentKib} kB\nAnonymous: ${anonymousKib} kB\nVmFlags: rd\n`;

describe('unchangedMappings', () => {
  it('unchangedMappings() takes what is read-only, of a file, and as it is there', () => {
    const text = [
      mapping('00400000-00c00000 r--p 00000000 fe:00 12 /usr/bin/node', 4000, 0),
      mapping('00c00000-04000000 r-xp 00800000 fe:00 12 /usr/bin/node', 30000, 0),
      mapping('04000000-04100000 r--p 03c00000 fe:00 12 /usr/bin/node', 900, 4),
      mapping('04100000-04200000 rw-p 03d00000 fe:00 12 /usr/bin/node', 900, 0),
      mapping('7f0000000000-7f0000100000 r--s 00000000 fe:00 13 /shared', 900, 0),
      mapping('7f0000200000-7f0000300000 r--p 00000000 00:00 0 ', 900, 0),
      mapping('7f0000400000-7f0000500000 r-xp 00000000 00:00 0      [vdso]', 900, 0),
      mapping('7f0000600000-7f0000700000 r-xp 00000000 fe:00 14     /lib/a lib.so', 255, 0),
      mapping('7f0000800000-7f0000900000 r-xp 00000000 fe:00 14     /lib/a lib.so', 256, 0),
    ].join('');
    expect(unchangedMappings(text)).toEqual([
      { start: 0x400000n, end: 0xc00000n, residentKib: 4000 },
      { start: 0xc00000n, end: 0x4000000n, residentKib: 30000 },
      { start: 0x7f0000800000n, end: 0x7f0000900000n, residentKib: 256 },
    ]);
    expect(unchangedMappings('')).toEqual([]);
  });
});

const onLinux = (): string | undefined =>
  process.platform === 'linux' ? undefined : 'no /proc/self/smaps';

describeWith('releaseProgramPages', [onLinux], () => {
  it('releaseProgramPages() makes the process smaller, and everything still runs', () => {
    const fileKib = (): number =>
      Number(/^RssFile:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
    const before = fileKib();
    expect(releaseProgramPages()).toBeGreaterThan(10_000);
    expect(fileKib()).toBeLessThan(before);
    expect(new Intl.NumberFormat('de').format(1234.5)).toBe('1.234,5');
  });
});
