import { expect, it } from 'vitest';
import { HostCheck } from '../../../src/edge/http/host-check.ts';

const OURS = ['127.0.0.1:19145', 'localhost', 'LOCALHOST:80', '[::1]:19145', '127.0.0.2', '[::1]'];
const OTHERS = ['evil.example:19145', 'evil.example', 'localhost.evil.example', '10.0.0.9', ''];
const ODD = ['127.0.0.1.evil.example', '127.evil', '[::1', '[::1]x', 'a:b', 'localhost:1:2', '::1'];

it.each([
  ['127.0.0.1', OURS, [...OTHERS, ...ODD, '[fe80::1]']],
  ['10.0.0.9', [...OURS, '10.0.0.9:19145'], ['evil.example', '10.0.0.8', ...ODD]],
  ['Node-1.lan', [...OURS, 'node-1.LAN:19145'], [...OTHERS, ...ODD]],
  ['0.0.0.0', [...OURS, '10.0.0.9:1', '[fe80::1]'], ['evil.example', ...ODD]],
  ['::', [...OURS, '10.0.0.9'], ['evil.example', '']],
])('HostCheck of a server at %s accepts its own names alone', (host, accepted, refused) => {
  const check = new HostCheck({ host });
  for (let i = 0; i < 2; i++) {
    for (const header of accepted) expect(check.accepts(header), header).toBe(true);
    for (const header of refused) expect(check.accepts(header), header).toBe(false);
  }
  expect(check.accepts(undefined)).toBe(true);
});
