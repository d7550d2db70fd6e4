import { once } from 'node:events';
import { parentPort, Worker, isMainThread } from 'node:worker_threads';
import '../../../../src/runtime/node/codec.ts';
import { give, makeModule, number } from '../../../../src/runtime/node/wasm.ts';

/** Waits until V8 has optimized a function that was called once; `--allow-natives-syntax`. */
async function waitForOptimized(value: number): Promise<void> {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const bytes = makeModule({ parameters: 1, variables: 1, body: give(number(value)) });
  const module = new WebAssembly.Module(bytes);
  const { run } = new WebAssembly.Instance(module, { env: { memory } }).exports;
  // The syntax is V8's own.
  const isOptimized = new Function('run', 'run(1); return () => %IsTurboFanFunction(run)') as (
    run: unknown,
  ) => () => boolean;
  const isNow = isOptimized(run);
  while (!isNow()) await new Promise((resolve) => setImmediate(resolve));
}

await waitForOptimized(isMainThread ? 1 : 2);
if (isMainThread) {
  const worker = new Worker(new URL(import.meta.url));
  await once(worker, 'message');
  process.stdout.write('optimized after one call, in both threads');
} else {
  parentPort?.postMessage('done');
}
