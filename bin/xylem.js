#!/usr/bin/env node
// Plain JavaScript that old Node versions can parse, so that users of one read a sentence and not a
// stack.
import { existsSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `xylem: Node ${process.versions.node} is too old: libp2p requires 22.18 or later.\n` +
      'Use `npx xylem ...` inside the project (it brings Node 22), or install Node 22.\n',
  );
  process.exit(1);
}
// An agent runs for months. This flag, set before the heap grows, keeps V8's young generation at
// its first size (1 to 2 MiB) instead of letting it grow to 3 x 16 MiB. Per block an agent
// allocates a few short-lived objects beside pooled buffers, so that more room saves nothing:
// `npm run bench net` took 2.11 CPU s per GiB received with the flag and 2.22 without; an idle
// agent takes 24 MiB less.
if (process.argv[2] === 'agent' || process.argv[2] === 'device') {
  setFlagsFromString('--semi-space-growth-factor=1');
  // V8 times the next full collection by how fast the program fills the old generation with
  // objects. An agent has few objects and much memory in buffers, so that V8 would collect every 8
  // MiB of buffers: half of the CPU time of a relaying agent. This flag makes it collect at twice
  // the memory that the last collection left.
  setFlagsFromString('--heap-growing-percent=100');
}
// A checkout has src/ and runs from it; a published package has only dist/.
const source = new URL('../src/agent/main.ts', import.meta.url);
const built = new URL('../dist/agent/main.js', import.meta.url);
const { main } = await import((existsSync(source) ? source : built).href);
process.exitCode = await main(process.argv.slice(2));
