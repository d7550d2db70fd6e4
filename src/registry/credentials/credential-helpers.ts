import { spawn, type ChildProcess } from 'node:child_process';
import type { Credentials } from '../auth/auth.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import { errorText } from '../../util/errors.ts';
import { SingleFlight } from '../../util/single-flight.ts';

/**
 * One run of a helper; those of clouds ask a server. Below the time that a token may take
 * (registry/auth/auth.ts). (tunable)
 */
const RUN_MS_MAX = 5_000;

/** Bytes that a helper may print; tokens of clouds have some KiB. */
const OUTPUT_BYTES_MAX = 64 * 1024;

/** Runs at a time; one more counts as failed. Runs for the same registry are one. */
const RUNS_MAX = 16;

/** What the helpers of Docker print, and exit with an error, when they know nothing. */
const NOTHING_FOUND = 'credentials not found in native keychain';

/** As a user's name: the secret is an identity token. */
const TOKEN_USER = '<token>';

/**
 * Asks Docker's credential helpers: `docker-credential-NAME get`, the registry on its standard
 * input, JSON on its standard output. Never through a shell, and never longer than 5 s: then its
 * whole process group is killed. What it prints is never logged.
 *
 * Life: constructed -> used -> `stop()`, which kills what runs.
 */
export class CredentialHelpers {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #runs = new SingleFlight<string, Credentials | undefined>();
  readonly #stop = new AbortController();

  constructor(components: { readonly clock: Clock; readonly logger: Logger }) {
    this.#clock = components.clock;
    this.#logger = components.logger;
  }

  /** Undefined when the helper knows nothing, and (logged) when it fails. Never rejects. */
  get(name: string, server: string): Promise<Credentials | undefined> {
    return this.#runs.run(`${name} ${server}`, () => this.#get(name, server));
  }

  stop(): void {
    this.#stop.abort(new Error('the agent stops'));
  }

  async #get(name: string, server: string): Promise<Credentials | undefined> {
    const program = `docker-credential-${name}`;
    try {
      if (this.#runs.size >= RUNS_MAX) throw new Error(`${RUNS_MAX} helpers run already`);
      const run = (limit: AbortSignal): Promise<string | undefined> =>
        this.#run(program, server, limit);
      const output = await within(this.#clock, RUN_MS_MAX, run, {
        signal: this.#stop.signal,
        reason: () => new Error(`no answer in ${RUN_MS_MAX} ms`),
      });
      return output === undefined ? undefined : readAnswer(output);
    } catch (error) {
      const fields = { program, server, error: errorText(error) };
      this.#logger.warn(fields, 'credential helper failed');
      return undefined;
    }
  }

  /** What the program printed; undefined when it knows nothing. */
  async #run(program: string, server: string, limit: AbortSignal): Promise<string | undefined> {
    limit.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<string | undefined>();
    // A group of its own, so that what it started ends with it.
    const child: ChildProcess = spawn(program, ['get'], {
      stdio: ['pipe', 'pipe', 'ignore'],
      detached: true,
    });
    child.on('error', reject);
    const giveUp = (why: Error): void => {
      reject(why);
      killGroup(child);
    };
    limit.addEventListener('abort', () => giveUp(limit.reason as Error), { once: true });
    const pieces: Buffer[] = [];
    let length = 0;
    child.stdout?.on('data', (piece: Buffer) => {
      length += piece.length;
      if (length <= OUTPUT_BYTES_MAX) pieces.push(piece);
      else giveUp(new Error(`it printed more than ${OUTPUT_BYTES_MAX} bytes`));
    });
    child.on('close', (code, signal) => {
      const output = Buffer.concat(pieces).toString('utf8');
      if (code === 0) resolve(output);
      else if (output.includes(NOTHING_FOUND)) resolve(undefined);
      else reject(new Error(`it ended with ${signal ?? `status ${code}`}`));
    });
    // A helper that reads no input has not failed yet.
    child.stdin?.on('error', () => {});
    child.stdin?.end(`${server}\n`);
    return promise;
  }
}

function readAnswer(output: string): Credentials {
  let answer: Record<string, unknown>;
  try {
    answer = Object(JSON.parse(output)) as Record<string, unknown>;
  } catch {
    // The parser's words quote the text, which holds a password.
    throw new Error('what it printed is not JSON');
  }
  const { Username: username, Secret: secret } = answer;
  if (typeof username !== 'string' || typeof secret !== 'string' || username === '') {
    throw new Error('what it printed has no Username and Secret');
  }
  return username === TOKEN_USER ? { identityToken: secret } : { username, password: secret };
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    // It has just ended.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
