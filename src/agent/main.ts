import { Command, CommanderError } from 'commander';
import { CodedError, errorText } from '../util/errors.ts';
import { registerAgent } from './commands/agent.ts';
import { registerConvert } from './commands/convert.ts';
import { registerDemo } from './commands/demo.ts';
import { registerFlatten } from './commands/flatten.ts';
import { registerInspect } from './commands/inspect.ts';
import { registerMount } from './commands/mount.ts';
import { registerPreheat } from './commands/preheat.ts';
import { registerSim } from './commands/sim.ts';
import { registerStatus } from './commands/status.ts';
import { registerStore } from './commands/store.ts';
import { registerVerify } from './commands/verify.ts';
import { packageVersion } from './version.ts';

/** Usage errors, as shells and most programs number them. */
const EXIT_USAGE = 2;
const EXIT_FAILURE = 1;

/** In the order of the help: running, using, making. */
const COMMANDS = [
  registerAgent,
  registerStatus,
  registerMount,
  registerPreheat,
  registerStore,
  registerInspect,
  registerVerify,
  registerFlatten,
  registerConvert,
  registerDemo,
  registerSim,
] as const;

/**
 * Runs the command line `xylem ARGV...` and gives its exit code: 0, 1 for a failure, 2 for wrong usage.
 * Facts go to standard output, everything else to standard error; with `--json` also an error is an object on standard output.
 */
export async function main(argv: readonly string[]): Promise<number> {
  // `xylem tree | head -1` ends the reader first, which is no failure of ours.
  process.stdout.on('error', ignoreBrokenPipe);
  const program = createProgram();
  try {
    await program.parseAsync(argv, { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    return report(error, argv.includes('--json'));
  }
}

function createProgram(): Command {
  const program = new Command('xylem')
    .description('Containers start from image blocks fetched on demand down a tree of hosts.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .addHelpText(
      'after',
      '\nExamples:\n  xylem agent --config /etc/xylem/agent.yaml\n  xylem mount docker://registry.example/app:1.4 /mnt/app\n  xylem status',
    );
  for (const register of COMMANDS) register(program);
  adapt(program, 'xylem');
  return program;
}

/** Lets errors come to `main()`, in our words, from this command and those below it. */
function adapt(command: Command, name: string): void {
  command.exitOverride();
  command.configureOutput({
    outputError: (text, write) => {
      const line = text
        .replace(/^error: /, '')
        .trim()
        .replace(/\s*\n\s*/g, ' ');
      write(`xylem: ${line}\nTry \`${name} --help\`.\n`);
    },
  });
  for (const child of command.commands) adapt(child, `${name} ${child.name()}`);
}

function report(error: unknown, json: boolean): number {
  if (error instanceof CommanderError) {
    // Commander has printed what there is to say: the help, the version or the error.
    if (error.exitCode === 0) return 0;
    if (json) printError(error.message.replace(/^error: /, ''), 'usage');
    return EXIT_USAGE;
  }
  const known = error instanceof CodedError;
  const debug = (process.env['XYLEM_DEBUG'] ?? '') !== '';
  // A defect needs its stack; an operating error is a sentence.
  const text = debug || !known ? stackOf(error) : error.message;
  process.stderr.write(`xylem: ${text}\n`);
  const code = known ? String(error.code) : 'internal';
  if (json) printError(errorText(error), code);
  return EXIT_FAILURE;
}

function printError(error: string, code: string): void {
  process.stdout.write(`${JSON.stringify({ error, code })}\n`);
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

function ignoreBrokenPipe(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error;
}
