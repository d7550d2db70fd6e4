import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { engineSoak } from './engine-soak.ts';
import { FaultReport } from './fault-report.ts';
import { storeCrashes } from './store-crashes.ts';

const MAIN = new URL('./main.ts', import.meta.url).pathname;

/** The figures of the printed table, by the words before them. */
function figures(table: string): Map<string, number> {
  const lines = [...table.matchAll(/^ {2}(\S.*?) +(\d+)$/gm)];
  return new Map(lines.map(([, what = '', count]) => [what, Number(count)]));
}

describe('test:faults', () => {
  it('finds no violation in a short run with 5 agents killed by kill -9', async () => {
    const ran = promisify(execFile)(process.execPath, [MAIN, '--quick', '--seed', '7']);
    // A run that found something says what on standard output.
    const run = await ran.catch((error: unknown) => error as { readonly stdout: string });
    const counts = figures(run.stdout);
    expect(run.stdout).toContain('crashes');
    const kills = [...counts].filter(([what]) => what.startsWith('agent, kill -9'));
    expect(kills.reduce((sum, [, count]) => sum + count, 0)).toBeGreaterThanOrEqual(5);
    for (const kind of ['drop', 'delay', 'duplicate', 'truncate', 'corrupt']) {
      expect(counts.get(`network: ${kind}`), kind).toBeGreaterThan(0);
    }
    for (const kind of ['short read', 'torn write', 'reordered write', 'bit rot', 'ENOSPC']) {
      expect(counts.get(`disk: ${kind}`), kind).toBeGreaterThan(0);
    }
    expect(counts.get('bytes compared')).toBeGreaterThan(1e8);
    for (const rule of [
      'wrong bytes',
      'lost durable block',
      'failed read',
      'hang',
      'broken promise',
    ]) {
      expect(counts.get(rule), `${rule}: ${run.stdout.slice(-2000)}`).toBe(0);
    }
  }, 400_000);

  it('engineSoak() finds wrong bytes of the registry that a root attests', async () => {
    const report = new FaultReport();
    await engineSoak({ seed: 3, rounds: 1, planted: 'wrong-origin' }, report);
    expect(report.texts.some((text) => text.startsWith('wrong bytes: '))).toBe(true);
    expect(report.texts[0]).toContain('again: --only engine --seed 3');
  }, 120_000);

  it('storeCrashes() does the same for the same seed', async () => {
    const [first, second] = [new FaultReport(), new FaultReport()];
    await storeCrashes(5, first);
    await storeCrashes(5, second);
    expect(String(first)).toBe(String(second));
    expect(first.sum('crashes')).toBe(10);
    expect(first.violationCount).toBe(0);
  });
});
