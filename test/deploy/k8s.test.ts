import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { API } from '../../src/agent/admin/api.ts';
import { ADMIN_SOCKET } from '../../src/agent/config/admin-socket.ts';
import { loadConfig } from '../../src/agent/config/config.ts';

const FOLDER = new URL('../../deploy/k8s/', import.meta.url).pathname;

describe('deploy/k8s', () => {
  it('holds documents that name a kind, and every file that the kustomization names', () => {
    const kustomization = parse(readFileSync(`${FOLDER}kustomization.yaml`, 'utf8')) as {
      resources: string[];
      configMapGenerator: { files: string[] }[];
    };
    const files = readdirSync(FOLDER);
    for (const resource of kustomization.resources) {
      expect(files).toContain(resource);
      for (const document of parseAllDocuments(readFileSync(FOLDER + resource, 'utf8'))) {
        expect(document.errors).toEqual([]);
        expect(document.toJS()).toMatchObject({
          apiVersion: expect.any(String) as string,
          kind: expect.any(String) as string,
        });
      }
    }
    for (const file of kustomization.configMapGenerator.flatMap((each) => each.files)) {
      expect(files).toContain(file.split('=')[1]);
    }
  });

  it('configures agents with what an agent takes', () => {
    for (const [file, role] of [
      ['root-config.yaml', 'root'],
      ['agent-config.yaml', 'child'],
    ] as const) {
      const config = loadConfig({ file: FOLDER + file, variables: {}, flags: {} });
      const admin = { listen: '0.0.0.0:19146', socket: ADMIN_SOCKET };
      expect(config).toMatchObject({ role, admin });
    }
  });

  it('probes by what anyone may ask over TCP', () => {
    const open = Object.values(API).filter(({ access }) => access === 'probe');
    for (const file of ['roots.yaml', 'agents.yaml']) {
      const text = readFileSync(FOLDER + file, 'utf8');
      const probes = [...text.matchAll(/(\w+)Probe: \{ httpGet: \{ path: (\S+), port: (\w+) \}/g)];
      expect(probes.map(([, kind, , port]) => [kind, port])).toEqual([
        ['liveness', 'admin'],
        ['readiness', 'admin'],
      ]);
      for (const [, , path] of probes) expect(open.map((route) => route.path)).toContain(path);
    }
  });
});
