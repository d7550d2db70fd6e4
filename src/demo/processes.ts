import { spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { CodedError } from '../util/errors.ts';

const CLI = fileURLToPath(new URL('../../bin/xylem.js', import.meta.url));

/**
 * Longest waits, in milliseconds: for an agent to be ready, and for its end after SIGTERM before a
 * kill.
 */
const READY_MS_MAX = 90_000;
const STOP_MS_MAX = 15_000;
const POLL_MS = 50;

/** The demo failed, or was interrupted. */
export class DemoError extends CodedError<
  | { readonly code: 'not-ready'; readonly host: string }
  | { readonly code: 'no-report'; readonly host: string }
  | { readonly code: 'wrong-bytes'; readonly host: string }
  | { readonly code: 'interrupted' }
> {}

/** An agent in its own process. */
export interface AgentProcess {
  readonly name: string;
  /** Base URL of its admin endpoint, for probes and metrics. */
  readonly admin: string;
  /** Path of its admin socket, for all else. */
  readonly socket: string;
  readonly pid: number;
  readonly logFile: string;
  /** Whether the process has ended. */
  readonly hasEnded: boolean;
  /** Sends a signal, for instance to pause the agent. */
  signal(name: NodeJS.Signals): void;
  /** Sends SIGTERM and waits for the end; kills the agent after `STOP_MS_MAX`. */
  stop(): Promise<void>;
}

/**
 * Starts `xylem agent` with a configuration file and appends its log to `logFile`. Returns at once;
 * `waitReady()` waits for the agent.
 */
export function startAgent(init: {
  name: string;
  configFile: string;
  admin: string;
  socket: string;
  logFile: string;
  /** Command, with its first arguments, that runs the agent in another place. */
  enter?: readonly string[];
}): AgentProcess {
  const agent = [process.execPath, CLI, 'agent', '--config', init.configFile];
  const [command = '', ...args] = [...(init.enter ?? []), ...agent];
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    // As deploy/k8s sets it.
    env: { MALLOC_ARENA_MAX: '1', ...process.env },
  });
  const log = createWriteStream(init.logFile, { flags: 'a' });
  child.stdout.pipe(log, { end: false });
  child.stderr.pipe(log, { end: false });
  child.once('close', () => log.end());
  return {
    name: init.name,
    admin: init.admin,
    socket: init.socket,
    pid: child.pid ?? -1,
    logFile: init.logFile,
    get hasEnded() {
      return hasEnded(child);
    },
    signal: (name) => void child.kill(name),
    stop: () => stopProcess(child),
  };
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

async function stopProcess(child: ChildProcess): Promise<void> {
  if (hasEnded(child)) return;
  const ended = once(child, 'exit');
  child.kill('SIGCONT');
  child.kill('SIGTERM');
  const killer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
  await ended;
  clearTimeout(killer);
}

/**
 * Waits until the agent reports that it is ready. Throws DemoError with its last answer when that
 * takes too long, and with the end of its log when the process ends.
 */
export async function waitReady(
  agent: Pick<AgentProcess, 'name' | 'admin' | 'logFile'> & { readonly hasEnded?: boolean },
): Promise<void> {
  const deadlineMs = performance.now() + READY_MS_MAX;
  let reason = 'it did not answer';
  while (performance.now() < deadlineMs) {
    if (agent.hasEnded === true) {
      const log = await readFile(agent.logFile, 'utf8').catch(() => '');
      throw notReady(agent, `ended before it was ready: ${log.trim().split('\n').at(-1) ?? ''}`);
    }
    try {
      const response = await fetch(`${agent.admin}/readyz`, { signal: AbortSignal.timeout(2000) });
      if (response.ok) return;
      reason = await response.text();
    } catch {
      // Not listening yet.
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw notReady(agent, `was not ready after ${READY_MS_MAX} ms: ${reason}`);
}

function notReady(
  { name, logFile }: Pick<AgentProcess, 'name' | 'logFile'>,
  what: string,
): DemoError {
  return new DemoError(`agent ${name} ${what}; see its log ${logFile}`, {
    code: 'not-ready',
    host: name,
  });
}
