import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { onTestFinished } from 'vitest';
import type { Certificates } from './certificates.ts';
import { tempFolder, type AtEnd } from './temp-folder.ts';

interface DockerRegistryOptions {
  /** Folder for its contents; absent: a fresh folder. Two registries may share one. */
  readonly storage?: string;
  /** The address that it listens on. Default: 127.0.0.1. */
  readonly host?: string;
  readonly htpasswd?: { readonly username: string; readonly password: string };
  readonly tls?: Certificates;
  /** Whether it lets manifests be removed; it does not by itself. */
  readonly deletes?: boolean;
  /** Where it tells of pushes, with an Authorization header. */
  readonly notifies?: { readonly url: string; readonly authorization: string };
  /** File for one line a request, as Apache writes them (combined log format). */
  readonly accessLog?: string;
  /** As of the registry's configuration, `auth.token`. */
  readonly token?: {
    readonly realm: string;
    readonly service: string;
    readonly issuer: string;
    readonly rootcertbundle: string;
  };
}

/**
 * Starts the registry of Debian's package docker-registry on a free port, until the end: of the
 * running test, if nothing else is said. Returns `host:port`.
 */
export async function startDockerRegistry(
  options: DockerRegistryOptions = {},
  atEnd: AtEnd = onTestFinished,
): Promise<string> {
  const folder = tempFolder(atEnd);
  const file = join(folder, 'config.json');
  // JSON is YAML too.
  writeFileSync(file, JSON.stringify(configuration(folder, options)));
  const { accessLog } = options;
  const log = accessLog === undefined ? undefined : openSync(accessLog, 'a');
  const child = spawn('docker-registry', ['serve', file], {
    stdio: ['ignore', log ?? 'ignore', 'pipe'],
    env: { PATH: process.env['PATH'], OTEL_TRACES_EXPORTER: 'none' },
  });
  if (log !== undefined) closeSync(log);
  atEnd(() => end(child));
  return addressOf(child);
}

function configuration(folder: string, options: DockerRegistryOptions): object {
  const { storage = join(folder, 'storage'), host = '127.0.0.1' } = options;
  const { htpasswd, tls, token, notifies, deletes = false } = options;
  const passwords = join(folder, 'htpasswd');
  if (htpasswd !== undefined) {
    const { username, password } = htpasswd;
    writeFileSync(passwords, execFileSync('htpasswd', ['-Bbn', username, password]));
  }
  return {
    version: '0.1',
    log: {
      level: 'info',
      formatter: 'json',
      accesslog: { disabled: options.accessLog === undefined },
    },
    storage: { filesystem: { rootdirectory: storage }, delete: { enabled: deletes } },
    http: {
      addr: `${host}:0`,
      ...(tls && { tls: { certificate: tls.certificateFile, key: tls.keyFile } }),
    },
    ...(htpasswd && { auth: { htpasswd: { realm: 'tests', path: passwords } } }),
    ...(token && { auth: { token } }),
    ...(notifies && {
      notifications: {
        endpoints: [
          {
            ...{ name: 'test', url: notifies.url, timeout: '5s', threshold: 5, backoff: '1s' },
            headers: { Authorization: [notifies.authorization] },
          },
        ],
      },
    }),
  };
}

/** The registry logs its address once it listens. */
async function addressOf(child: ChildProcess): Promise<string> {
  const { stderr } = child;
  if (stderr === null) throw new Error('the registry has no standard error');
  const lines: string[] = [];
  for await (const line of createInterface({ input: stderr })) {
    lines.push(line);
    const address = /listening on ([0-9.]+:[0-9]+)/.exec(line)?.[1];
    if (address === undefined) continue;
    stderr.resume();
    return address;
  }
  throw new Error(`docker-registry did not start:\n${lines.join('\n')}`);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}
