import { expect, test } from 'vitest';
import { parseReference } from '../../src/registry/reference.ts';

const digest = `sha256:${'0a'.repeat(32)}`;

test.each([
  ['docker://host.example/app:1', 'host.example', 'app', '1', undefined],
  ['host.example:5000/team/app', 'host.example:5000', 'team/app', 'latest', undefined],
  [`127.0.0.1:5000/a/b/c@${digest}`, '127.0.0.1:5000', 'a/b/c', undefined, digest],
  [`[::1]:5000/app:v1@${digest}`, '[::1]:5000', 'app', 'v1', digest],
  ['my_reg:5000/app:1', 'my_reg:5000', 'app', '1', undefined],
  ['localhost/app:1', 'localhost', 'app', '1', undefined],
  ['Host.Example/app:V1', 'host.example', 'app', 'V1', undefined],
  ['busybox', 'docker.io', 'library/busybox', 'latest', undefined],
  ['team/app:1', 'docker.io', 'team/app', '1', undefined],
  ['registry-1.docker.io/busybox:1', 'docker.io', 'library/busybox', '1', undefined],
  ['host.example/a__b/c-.d'.replace('-.', '--'), 'host.example', 'a__b/c--d', 'latest', undefined],
])('parseReference() reads %s', (text, registry, repository, tag, found) => {
  expect(parseReference(text)).toEqual({ registry, repository, tag, digest: found });
});

test.each([
  '',
  'host.example/',
  'host.example/App:1',
  'host.example/app:',
  'host.example/app:-x',
  `host.example/app:${'x'.repeat(129)}`,
  'host.example/app@sha256:12',
  `host.example/app@${digest.toUpperCase()}`,
  'host.example/a..b',
  'host.example/a/../b',
  'host.example/a___b',
  'host.example:0/app',
  'host.example:99999/app',
  'user@host.example/app',
  'https://host.example/app',
  `host.example/${'a'.repeat(250)}`,
  'x'.repeat(1000),
])('parseReference() refuses %s', (text) => {
  expect(() => parseReference(text)).toThrow(
    expect.objectContaining({ code: 'invalid-reference' }) as Error,
  );
});
