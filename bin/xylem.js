#!/usr/bin/env node
// Plain JavaScript that old Node versions can parse, so that they get a sentence and not a stack.
import { existsSync } from 'node:fs';

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `xylem: Node ${process.versions.node} is too old: libp2p needs 22.18 or later.\n` +
      'Use `npx xylem ...` inside the project (it brings Node 22), or install Node 22.\n',
  );
  process.exit(1);
}
// A checkout has src/ and runs it as it is; a published package has dist/ alone.
const source = new URL('../src/agent/main.ts', import.meta.url);
const built = new URL('../dist/agent/main.js', import.meta.url);
const { main } = await import((existsSync(source) ? source : built).href);
process.exitCode = await main(process.argv.slice(2));
