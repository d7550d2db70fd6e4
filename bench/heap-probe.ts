import { renameSync, writeFileSync } from 'node:fs';
import { collectGarbage } from '../src/runtime/node/heap.ts';

/**
 * For `node --import` in the agents of a benchmark, and never in others: at SIGUSR2 the process
 * collects its garbage and writes what it still has, in bytes, to the folder that the URL of this
 * module names.
 */
process.on('SIGUSR2', () => {
  collectGarbage();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  const file = `${new URL(import.meta.url).searchParams.get('dir')}/${process.pid}`;
  writeFileSync(`${file}.new`, JSON.stringify({ heapUsed, arrayBuffers }));
  renameSync(`${file}.new`, `${file}.json`);
});
