import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { carryOut, BACKUP_SUFFIX } from '../../../src/agent/commands/containerd-files.ts';
import { planMirror, planRemoval } from '../../../src/agent/commands/containerd-hosts.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const REGISTRY = 'registry.example';
const OWN = 'server = "https://registry.example"\n[host."https://other.example"]\n';

/** Attributes of a file, by name: what the first argument says, set or listed. */
const ATTRIBUTES = `
import json, os, sys
file, given = sys.argv[1], json.loads(sys.argv[2])
for name, value in given.items():
    os.setxattr(file, name, bytes.fromhex(value))
print(json.dumps({name: os.getxattr(file, name).hex() for name in sorted(os.listxattr(file))}))
`;

function attributes(file: string, given: Readonly<Record<string, string>> = {}): object {
  const args = ['-c', ATTRIBUTES, file, JSON.stringify(given)];
  return JSON.parse(execFileSync('python3', args, { encoding: 'utf8' })) as object;
}

/** A list of rights as Linux keeps it: owner rw, user 1234 r, group and mask r, others nothing. */
const RIGHTS = [
  ...['02000000', '0100', '0600', 'ffffffff', '0200', '0400', 'd2040000'],
  ...['0400', '0400', 'ffffffff', '1000', '0400', 'ffffffff', '2000', '0000', 'ffffffff'],
].join('');

describeWith('hosts.toml of another owner', [needs.root, needs.program('python3')], () => {
  test.each<[string, Readonly<Record<string, string>>]>([
    ['a list of rights', { 'system.posix_acl_access': RIGHTS }],
    ['a label', { 'security.selinux': Buffer.from('system_u:object_r:x_t:s0\0').toString('hex') }],
    ['a note of a user', { 'user.origin': '6170' }],
  ])('keeps %s, and so does what is kept of it', (_, given) => {
    const dir = tempFolder();
    const file = join(dir, REGISTRY, 'hosts.toml');
    mkdirSync(dirname(file));
    writeFileSync(file, OWN, { mode: 0o640 });
    execFileSync('chown', ['1000:1001', file]);
    const before = { ...attributes(file, given), ...ownerOf(file) };
    expect(before).toMatchObject(given);
    carryOut(planMirror({ dir, registry: REGISTRY, mirror: 'http://127.0.0.1:19145' }));
    for (const each of [file, file + BACKUP_SUFFIX]) {
      expect({ ...attributes(each), ...ownerOf(each) }, each).toEqual(before);
    }
    expect(readFileSync(file, 'utf8')).toContain('127.0.0.1:19145');
    carryOut(planRemoval({ dir, registry: REGISTRY }));
    expect({ ...attributes(file), ...ownerOf(file) }).toEqual(before);
    expect(readFileSync(file, 'utf8')).toBe(OWN);
    expect(existsSync(file + BACKUP_SUFFIX)).toBe(false);
  });
});

function ownerOf(file: string): object {
  const { mode, uid, gid } = statSync(file);
  return { mode, uid, gid };
}
