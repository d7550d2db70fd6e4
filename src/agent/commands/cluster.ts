import { InvalidArgumentError, type Command } from 'commander';
import { SystemRandom } from '../../runtime/node/random.ts';
import { makeClusterFiles, type ClusterFiles } from '../cluster/cluster-files.ts';
import { jsonOption, printFacts } from './output.ts';

/** More roots than this are no root set, but a slip of the hand. */
const ROOTS_MAX = 64;

interface Options {
  readonly roots: number;
  readonly prefix: string;
  readonly json?: boolean;
}

/** `xylem cluster`: the keys of a cluster. */
export function registerCluster(program: Command): void {
  const cluster = program.command('cluster').description('make the keys of a new cluster');
  cluster
    .command('init')
    .description('make the cluster key, the authority of the roots, and keys with certificates')
    .argument('<dir>', 'a new or empty folder')
    .option('--roots <n>', 'roots to make keys and certificates for', rootCount, 3)
    .option('--prefix <text>', 'name of the roots before -0, -1, ...', prefixText, 'root')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      '\nExamples:' +
        '\n  xylem cluster init ./keys' +
        '\n  xylem cluster init ./keys --roots 3 --prefix xylem-root',
    )
    .action((dir: string, { roots, prefix, json }: Options) => {
      const files = makeClusterFiles({ random: new SystemRandom() }, { dir, roots, prefix });
      printFacts(json, files, whatToCopy(files));
    });
  cluster.addHelpText('after', '\nExamples:\n  xylem cluster init ./keys --roots 3');
}

function whatToCopy(files: ClusterFiles): string {
  const roots = files.roots.flatMap(({ name, peer, keyFile, certFile }) => [
    `${name}  ${peer}`,
    `  ${keyFile}  ->  identity.keyFile of this root alone (/var/lib/xylem/identity.key)`,
    `  ${certFile}  ->  root.cert beside it, or cluster.rootCertFile`,
  ]);
  return [
    'every host:',
    `  ${files.clusterKey}  ->  cluster.keyFile (/etc/xylem/cluster.key), mode 0600`,
    `  ${files.authorityPublic}  ->  cluster.rootsAuthority: whom this key certifies is ` +
      'believed as a root',
    ...roots,
    'no host:',
    `  ${files.authorityKey}  is what makes roots: keep it away from the cluster`,
  ].join('\n');
}

function rootCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= ROOTS_MAX) return count;
  throw new InvalidArgumentError(`It must be a whole number from 1 to ${ROOTS_MAX}.`);
}

function prefixText(text: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(text)) return text;
  throw new InvalidArgumentError('It must be 1 to 63 letters, digits, ".", "_" or "-".');
}
