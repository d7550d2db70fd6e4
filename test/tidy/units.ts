import { sourcesIn, type Finding } from './sources.ts';

/** Modules that start programs, mount, or take long. */
const SYSTEM_MODULES = [
  'node:child_process',
  ...[
    '/demo/agent-cluster.ts',
    '/demo/processes.ts',
    '/kit/blob-cluster.ts',
    '/kit/served-cluster.ts',
  ],
  ...['/kit/containerd.ts', '/kit/docker-registry.ts', '/kit/certificates.ts'],
  ...['/kit/namespaces.ts', '/kit/tar-image.ts', '/kit/mirror-rig.ts', '/tree/soak.ts'],
];

/** Each import of such a module, or of a benchmark, by a test that is no `x.system.test.ts`. */
export function startsInUnitTests(): readonly Finding[] {
  return sourcesIn(['test'], /(?<!\.system)\.test\.ts$/).flatMap(({ path, lines }) =>
    lines.flatMap((text, i) => {
      const module = / from '([^']+)';$/.exec(text)?.[1] ?? '';
      const isSystem =
        SYSTEM_MODULES.some((name) => module.endsWith(name)) || module.includes('/bench/');
      return isSystem ? [{ path, line: i + 1, text: module }] : [];
    }),
  );
}
