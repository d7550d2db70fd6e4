import { Option, type Command } from 'commander';
import { countedLogger } from '../../runtime/counted-logger.ts';
import { SystemClock } from '../../runtime/node/clock.ts';
import { collectGarbage } from '../../runtime/node/heap.ts';
import { jsonLogger } from '../../runtime/node/logger.ts';
import { SystemRandom } from '../../runtime/node/random.ts';
import { configKeys, defaultText } from '../config/config-keys.ts';
import type { Config } from '../config/config-schema.ts';
import { formatConfig, loadConfig } from '../config/config.ts';
import { runUntilSignal } from '../run.ts';

interface Options extends Readonly<Record<string, string | boolean | undefined>> {
  readonly config?: string;
  readonly printConfig?: boolean;
}

/** `xylem agent`: runs the agent of a host in the foreground. */
export function registerAgent(program: Command): void {
  const command = program
    .command('agent')
    .description("run this host's agent in the foreground")
    .option('--config <file>', 'YAML file of the configuration')
    .option('--print-config', 'print the resulting configuration, and exit')
    .addHelpText(
      'after',
      '\nA variable can set every key too (--store.dir is XYLEM_STORE_DIR).\n\nExamples:\n' +
        '  xylem agent --config /etc/xylem/agent.yaml\n' +
        '  xylem agent --role root --store.quota 100GiB\n' +
        '  xylem agent --roots /dns4/root-0.example/tcp/19147 --print-config',
    );
  for (const key of configKeys) {
    const value = key.kind === 'boolean' ? '[true|false]' : '<value>';
    const words = `${key.rule} (default: ${defaultText(key) ?? 'none'})`;
    command.addOption(new Option(`${key.flag} ${value}`, words).helpGroup('Configuration:'));
  }
  command.action(async (options: Options) => {
    const config = loadConfig({
      ...(options.config !== undefined && { file: options.config }),
      variables: process.env,
      flags: flagsOf(options),
    });
    if (options.printConfig === true) process.stdout.write(formatConfig(config));
    else await runAgent(config);
  });
}

function flagsOf(options: Options): Record<string, string | true> {
  const flags: Record<string, string | true> = {};
  for (const { name } of configKeys) {
    const value = options[name];
    if (typeof value === 'string' || value === true) flags[name] = value;
  }
  return flags;
}

async function runAgent(config: Config): Promise<void> {
  const clock = new SystemClock();
  const logger = countedLogger({ clock, logger: jsonLogger({ level: config.log.level }) });
  // Imported here alone: the other commands start faster without the network stack.
  const { createAgent } = await import('../agent.ts');
  const agent = await createAgent(config, { logger, clock, random: new SystemRandom() });
  // Most of the start's garbage comes from loading code. Now no client waits for an answer; later
  // it would notice the pause.
  collectGarbage();
  const exit = (code: number): void => process.exit(code);
  process.exitCode = await runUntilSignal(agent, { logger, clock, events: process, exit });
}
