import { expect, it } from 'vitest';
import { meantRegistry } from '../../../src/edge/mirror/meant-registry.ts';

const [R, STORAGE] = [
  { host: 'r.example:5000', insecure: true },
  { host: 'layers.s3.example', insecure: false },
];

it.each([
  [{ registries: [R] }, { name: 'r.example:5000', scheme: 'http' }],
  [{ registries: [R, STORAGE] }, undefined],
  [{ registries: [] }, undefined],
  [
    { registries: [R, STORAGE], defaultRegistry: 'r.example:5000' },
    { name: 'r.example:5000', scheme: 'http' },
  ],
  [
    { registries: [R, STORAGE], defaultRegistry: 'docker.io' },
    { name: 'docker.io', scheme: 'https' },
  ],
  [
    { registries: [], defaultRegistry: 'index.docker.io' },
    { name: 'docker.io', scheme: 'https' },
  ],
  [
    {
      registries: [R, { host: 'docker.io', insecure: true }],
      defaultRegistry: 'registry-1.docker.io',
    },
    { name: 'docker.io', scheme: 'http' },
  ],
])('meantRegistry() of %j is %j', (known, meant) => {
  expect(meantRegistry(known)).toEqual(meant);
});
