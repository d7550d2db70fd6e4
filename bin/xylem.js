#!/usr/bin/env node
// Plain JavaScript that old Node versions can parse, so that they get a sentence and not a stack.
import { existsSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `xylem: Node ${process.versions.node} is too old: libp2p needs 22.18 or later.\n` +
      'Use `npx xylem ...` inside the project (it brings Node 22), or install Node 22.\n',
  );
  process.exit(1);
}
// What runs for months: the young generation of V8's heap stays at its first size (1 to 2 MiB) instead of growing to 3 x 16 MiB, before
// anything makes it grow. Per block an agent allocates a few short-lived objects beside pooled buffers, so that more room saves
// nothing: `npm run bench net` took 2.11 CPU s per GiB received with it and 2.22 without; an idle agent takes 24 MiB less.
if (process.argv[2] === 'agent') {
  setFlagsFromString('--semi-space-growth-factor=1');
  // V8 sets the next full collection by how fast the program fills the old generation with objects. Ours are few and buffers many, so that
  // it would collect every 8 MiB of buffers: half of the CPU time of an agent that relays. Instead, at twice what was left last time.
  setFlagsFromString('--heap-growing-percent=100');
}
// A checkout has src/ and runs it as it is; a published package has dist/ alone.
const source = new URL('../src/agent/main.ts', import.meta.url);
const built = new URL('../dist/agent/main.js', import.meta.url);
const { main } = await import((existsSync(source) ? source : built).href);
process.exitCode = await main(process.argv.slice(2));
