import { Command, CommanderError } from 'commander';
import { REMEMBERED_VARIABLE } from '../device/keeper/messages.ts';
import { CodedError, errorText } from '../util/errors.ts';
import { plainText } from '../util/plain-text.ts';
import { endSignalCode } from './end-signals.ts';
import { packageVersion } from './version.ts';

/** Exit code of usage errors, as in shells and most programs. */
const EXIT_USAGE = 2;
const EXIT_FAILURE = 1;

/**
 * Commands in the order of the help: running, using, making. Each loads its code on demand, so an
 * agent that runs for months holds no code of the others in memory.
 */
const COMMANDS = new Map<string, () => Promise<(program: Command) => void>>([
  ['agent', async () => (await import('./commands/agent.ts')).registerAgent],
  ['device', async () => (await import('./commands/device.ts')).registerDevice],
  ['status', async () => (await import('./commands/status.ts')).registerStatus],
  ['tree', async () => (await import('./commands/status.ts')).registerTree],
  ['mount', async () => (await import('./commands/mount.ts')).registerMount],
  ['unmount', async () => (await import('./commands/mount.ts')).registerUnmount],
  ['preheat', async () => (await import('./commands/preheat.ts')).registerPreheat],
  ['accelerate', async () => (await import('./commands/accelerate.ts')).registerAccelerate],
  ['store', async () => (await import('./commands/store.ts')).registerStore],
  [
    'configure-containerd',
    async () => (await import('./commands/configure-containerd.ts')).registerConfigureContainerd,
  ],
  ['cluster', async () => (await import('./commands/cluster.ts')).registerCluster],
  ['inspect', async () => (await import('./commands/inspect.ts')).registerInspect],
  ['verify', async () => (await import('./commands/verify.ts')).registerVerify],
  ['check', async () => (await import('./commands/check.ts')).registerCheck],
  ['flatten', async () => (await import('./commands/flatten.ts')).registerFlatten],
  ['convert', async () => (await import('./commands/convert.ts')).registerConvert],
  ['export', async () => (await import('./commands/export.ts')).registerExport],
  ['trace', async () => (await import('./commands/trace.ts')).registerTrace],
  ['copy', async () => (await import('./commands/copy.ts')).registerCopy],
  ['push', async () => (await import('./commands/copy.ts')).registerPush],
  ['demo', async () => (await import('./commands/demo.ts')).registerDemo],
  ['sim', async () => (await import('./commands/sim.ts')).registerSim],
]);

/**
 * Runs the command line `xylem ARGV...` and returns its exit code: 0, 1 for a failure, 2 for wrong
 * usage, 130 or 143 after SIGINT or SIGTERM.
 *
 * Facts go to standard output, everything else to standard error. With `--json` an error is also an
 * object on standard output.
 */
export async function main(argv: readonly string[]): Promise<number> {
  // `xylem tree | head -1` ends the reader first, which is no failure of this program.
  process.stdout.on('error', ignoreBrokenPipe);
  const takesOver = argv[0] === 'device' && (process.env[REMEMBERED_VARIABLE] ?? '') !== '';
  if (takesOver) await (await import('./device-process/early-devices.ts')).takeOverEarly();
  const program = await createProgram(argv[0]);
  try {
    await program.parseAsync(argv, { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    const code = report(error, argv.includes('--json'));
    // It serves devices, whose threads would keep it alive.
    if (takesOver) process.exit(code);
    return code;
  }
}

/**
 * Creates the program with the named command alone. With any other name it has all commands, for
 * the help and for the error.
 */
async function createProgram(name: string | undefined): Promise<Command> {
  const program = new Command('xylem')
    .description('Containers start from image blocks fetched on demand down a tree of hosts.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .addHelpText(
      'after',
      '\nExamples:' +
        '\n  xylem agent --config /etc/xylem/agent.yaml' +
        '\n  xylem mount docker://registry.example/app:1.4 /run/xylem/mounts/app' +
        '\n  xylem status',
    );
  const only = COMMANDS.get(name ?? '');
  for (const load of only === undefined ? COMMANDS.values() : [only]) (await load())(program);
  adapt(program, 'xylem');
  return program;
}

/**
 * Makes this command and the commands below it throw to `main()`, with errors in the program's own
 * words.
 */
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
    // Commander has already printed the help, the version or the error.
    if (error.exitCode === 0) return 0;
    if (json) printError(error.message.replace(/^error: /, ''), 'usage');
    return EXIT_USAGE;
  }
  const known = error instanceof CodedError;
  const debug = (process.env['XYLEM_DEBUG'] ?? '') !== '';
  // A bug needs its stack; an operating error is a sentence.
  const text = debug || !known ? stackOf(error) : error.message;
  process.stderr.write(`xylem: ${plainText(text)}\n`);
  const code = known ? String(error.code) : 'internal';
  if (json) printError(errorText(error), code);
  return endSignalCode() ?? EXIT_FAILURE;
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
