import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KeyFileError, loadClusterKey, loadIdentitySeed } from '../../src/agent/key-files.ts';
import { SystemRandom } from '../../src/runtime/node/random.ts';
import { silentLogger, type Logger } from '../../src/runtime/logger.ts';

const random = new SystemRandom();
const quiet = { logger: silentLogger, random };
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'xylem-keys-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

function warnings(): { logger: Logger; texts: string[] } {
  const texts: string[] = [];
  return { texts, logger: { ...silentLogger, warn: (_, text) => texts.push(text) } };
}

describe('loadIdentitySeed()', () => {
  it('makes a missing file, readable by its owner alone, and reads the same from then on', () => {
    const file = join(dir, 'a', 'b', 'identity.key');
    const seed = loadIdentitySeed(file, quiet);
    expect(seed).toHaveLength(32);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readdirSync(join(dir, 'a', 'b'))).toEqual(['identity.key']);
    expect(readFileSync(file, 'latin1')).toMatch(/^[0-9a-f]{64}\n$/);
    expect(loadIdentitySeed(file, quiet)).toEqual(seed);
  });

  it.each(['', 'abc', 'x'.repeat(64), '00'.repeat(31), '00'.repeat(33), '00'.repeat(10_000)])(
    'refuses a damaged file and leaves it alone: %.12s',
    (content) => {
      const file = join(dir, 'identity.key');
      writeFileSync(file, content, { mode: 0o600 });
      expect(() => loadIdentitySeed(file, quiet)).toThrow(/identity\.key is damaged/);
      expect(readFileSync(file, 'latin1')).toBe(content);
    },
  );

  it('warns of a file that others can read', () => {
    const file = join(dir, 'identity.key');
    loadIdentitySeed(file, quiet);
    const { logger, texts } = warnings();
    loadIdentitySeed(file, { logger, random });
    expect(texts).toEqual([]);
    chmodSync(file, 0o640);
    loadIdentitySeed(file, { logger, random });
    expect(texts).toEqual([expect.stringContaining(`chmod 600 ${file}`)]);
  });

  it('says what it could not make, or read', () => {
    writeFileSync(join(dir, 'file'), '');
    expect(() => loadIdentitySeed(join(dir, 'file', 'identity.key'), quiet)).toThrow(KeyFileError);
    expect(() => loadIdentitySeed(dir, quiet)).toThrow(/cannot read .* \(identity\.keyFile\)/);
  });
});

describe('loadClusterKey()', () => {
  it('takes the line ends away and nothing else', () => {
    const file = join(dir, 'cluster.key');
    writeFileSync(file, ` ${'k'.repeat(40)} \r\n`, { mode: 0o600 });
    expect(Buffer.from(loadClusterKey(file, quiet)).toString()).toBe(` ${'k'.repeat(40)} `);
  });

  it.each([0, 31, 4097])('refuses %i bytes', (length) => {
    const file = join(dir, 'cluster.key');
    writeFileSync(file, 'k'.repeat(length), { mode: 0o600 });
    expect(() => loadClusterKey(file, quiet)).toThrow(/must have 32 to 4096 bytes/);
  });

  it('never makes a missing one, and says how to', () => {
    const file = join(dir, 'cluster.key');
    expect(() => loadClusterKey(file, quiet)).toThrow(/does not exist: make one with `openssl/);
    expect(existsSync(file)).toBe(false);
  });
});
