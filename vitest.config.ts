import { defineConfig } from 'vitest/config';

/** Tests with agents, other programs, child processes, FUSE, soaks or benchmarks. */
const SYSTEM = 'test/**/*.system.test.ts';

export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    dangerouslyIgnoreUnhandledErrors: false,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: [SYSTEM],
          testTimeout: 30_000,
          hookTimeout: 30_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'system',
          include: [SYSTEM],
          testTimeout: 120_000,
          hookTimeout: 180_000,
          // Other programs on a busy machine take their time.
          expect: { poll: { timeout: 30_000 } },
        },
      },
    ],
  },
});
