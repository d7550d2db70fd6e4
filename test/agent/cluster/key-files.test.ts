import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  ClusterKeyFile,
  KeyFileError,
  loadClusterKeys,
  loadIdentitySeed,
} from '../../../src/agent/cluster/key-files.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';
import { silentLogger, type Logger } from '../../../src/runtime/logger.ts';

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
  it('creates a missing file, readable by its owner alone, and reads the same from then on', () => {
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

  it('says which file it could not create or read', () => {
    writeFileSync(join(dir, 'file'), '');
    expect(() => loadIdentitySeed(join(dir, 'file', 'identity.key'), quiet)).toThrow(KeyFileError);
    expect(() => loadIdentitySeed(dir, quiet)).toThrow(/cannot read .* \(identity\.keyFile\)/);
  });
});

describe('loadClusterKeys()', () => {
  const load = (content: string): string[] => {
    const file = join(dir, 'cluster.key');
    writeFileSync(file, content, { mode: 0o600 });
    return loadClusterKeys(file, quiet).map((key) => Buffer.from(key).toString());
  };

  it('strips the line ends and nothing else', () => {
    expect(load(` ${'k'.repeat(40)} \r\n`)).toEqual([` ${'k'.repeat(40)} `]);
  });

  it('accepts two keys of one line each, in their order', () => {
    expect(load(`\n${'n'.repeat(32)}\n\n${'o'.repeat(4096)}`)).toEqual([
      'n'.repeat(32),
      'o'.repeat(4096),
    ]);
  });

  it.each([0, 31, 4097])('refuses %i bytes', (length) => {
    expect(() => load('k'.repeat(length))).toThrow(/must have 32 to 4096 bytes/);
    expect(() => load(`${'k'.repeat(40)}\n${'o'.repeat(length || 1)}`)).toThrow(/must have 32/);
  });

  it('refuses three keys, and a repeated key, without showing them', () => {
    const [a, b, c] = ['a', 'b', 'c'].map((letter) => letter.repeat(32));
    for (const content of [`${a}\n${b}\n${c}`, `${a}\n${a}`]) {
      expect(() => load(content)).toThrow(/must hold one key, or the new and the old one/);
      expect(() => load(content)).not.toThrow(/aaa/);
    }
  });

  it('never creates a missing file, and says how to', () => {
    const file = join(dir, 'cluster.key');
    expect(() => loadClusterKeys(file, quiet)).toThrow(
      /does not exist: make one with `.umask 077; openssl/,
    );
    expect(existsSync(file)).toBe(false);
  });
});

describe('ClusterKeyFile', () => {
  const [old, fresh] = ['o'.repeat(64), 'n'.repeat(64)];

  function opened(): {
    file: string;
    keys: ClusterKeyFile;
    clock: ManualClock;
    lines: string[];
  } {
    const file = join(dir, 'cluster.key');
    writeFileSync(file, `${old}\n`, { mode: 0o600 });
    const clock = new ManualClock();
    const lines: string[] = [];
    const tell = (fields: object, text: string): void =>
      void lines.push(`${text} ${JSON.stringify(fields)}`);
    const logger = { ...silentLogger, info: tell, error: tell };
    return { file, clock, lines, keys: new ClusterKeyFile({ clock, logger }, { file }) };
  }

  const textOf = (keys: readonly Uint8Array[]): string[] =>
    keys.map((key) => Buffer.from(key).toString());

  it('ClusterKeyFile.keys() returns the same list until the file changes', () => {
    const { file, keys, clock, lines } = opened();
    const before = keys.keys();
    clock.advance(10_000);
    expect(keys.keys()).toBe(before);
    writeFileSync(file, `${fresh}\n${old}\n`);
    expect(keys.keys()).toBe(before);
    clock.advance(2_000);
    expect(textOf(keys.keys())).toEqual([fresh, old]);
    // Replaced, as a mounted secret is.
    writeFileSync(`${file}.new`, `${fresh}\n`, { mode: 0o600 });
    renameSync(`${file}.new`, file);
    clock.advance(2_000);
    expect(textOf(keys.keys())).toEqual([fresh]);
    expect(lines).toHaveLength(2);
    expect(lines.join()).not.toMatch(/ooo|nnn/);
  });

  it('ClusterKeyFile.keys() keeps the keys of a damaged or missing file, and logs it once', () => {
    const { file, keys, clock, lines } = opened();
    const before = keys.keys();
    writeFileSync(file, 'short');
    for (let i = 0; i < 3; i++) {
      clock.advance(2_000);
      expect(keys.keys()).toBe(before);
    }
    expect(lines).toEqual([expect.stringMatching(/kept the cluster keys .* must have 32 to 4096/)]);
    rmSync(file);
    clock.advance(2_000);
    expect(keys.keys()).toBe(before);
    expect(lines).toHaveLength(2);
    writeFileSync(file, `${fresh}\n`, { mode: 0o600 });
    clock.advance(2_000);
    expect(textOf(keys.keys())).toEqual([fresh]);
  });
});
