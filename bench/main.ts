/** `npm run bench [NAME...]`: measures and prints one table. */
import { cpus, release } from 'node:os';
import { parseArgs } from 'node:util';
import { errorText } from '../src/util/errors.ts';
import { benchAway } from './away.ts';
import { benchBlobs } from './blobs.ts';
import { benchCodecs } from './codecs.ts';
import { benchCold } from './cold.ts';
import { benchContainers } from './containers.ts';
import { benchConvert } from './convert.ts';
import { benchDecode } from './decode.ts';
import { benchDevice } from './device.ts';
import { benchEdge } from './edge.ts';
import { benchJoin } from './join.ts';
import { benchLimits } from './limits.ts';
import { benchMemory } from './memory.ts';
import { benchMixed } from './mixed.ts';
import { benchNbd } from './nbd.ts';
import { benchNet } from './net.ts';
import { benchOwnWay } from './own-way.ts';
import { benchPull } from './pull.ts';
import { benchRegistries } from './registries.ts';
import { benchRoads, benchUnlisted } from './roads.ts';
import { benchRoots } from './roots.ts';
import type { BenchOptions, BenchRow } from './rows.ts';
import { benchStore } from './store.ts';
import { benchVerify } from './verify.ts';
import { benchWorkloads } from './workloads.ts';

const benches: Record<string, (options: BenchOptions) => Promise<BenchRow[]>> = {
  codecs: benchCodecs,
  store: benchStore,
  net: benchNet,
  join: benchJoin,
  verify: benchVerify,
  device: benchDevice,
  nbd: benchNbd,
  memory: benchMemory,
  cold: benchCold,
  limits: benchLimits,
  blobs: benchBlobs,
  edge: benchEdge,
  roads: benchRoads,
  'own-way': benchOwnWay,
  roots: benchRoots,
  away: benchAway,
  pull: benchPull,
  registries: benchRegistries,
  mixed: benchMixed,
  convert: benchConvert,
  decode: benchDecode,
  workloads: benchWorkloads,
  containers: benchContainers,
};

/** Parts of a benchmark that it starts in a process of their own. */
const parts: typeof benches = { 'roads-unlisted': benchUnlisted };

const HELP = `Usage: npm run bench [-- NAME... [--smoke] [--json] [--only TEXT] [--shapes]]

Measures, and prints one table: of all benchmarks, or of those named.

  --smoke      everything once, at its smallest size: shows that it runs
  --json       the rows as JSON
  --only TEXT  of workloads and registries, those with this in their name
  --shapes     of workloads, blocks of other sizes and compressions beside the usual ones
  --help       this text, and the method of each benchmark

Examples:
  npm run bench device
  npm run bench -- containers edge --smoke
`;

const NOTES = `
Method: one process per benchmark side, on loopback and on this machine's own disk; stop all other
work on the machine first.
codecs  MB/s of decoded bytes on one core, each input seen once per round, best of several rounds.
store   256 KiB blocks through the store, against plain files written and read the same way; gets of
        hot blocks while others are put.
net     two processes, TCP + Noise + Yamux; CPU seconds per GiB of each side, which swing less than
        the wall.
join    hosts that start an image of 8 layers, and one owner of four; CPU of the owner per call,
        lowest of several rounds.
verify  CPU of attestations per block, against that of receiving the block from one process and
        sending it to another.
device  fio with direct I/O on the FUSE file and on the loop device over it. floor: a thread that
        answers from memory with a read and a write; store: an image of four layers of LZ4 blocks
        out of a store's files, all in the page cache; ZSTD: the same with blocks of 16 KiB; event
        loop: all blobs in memory, through the event loop; cold: a store that holds nothing.
memory  VmRSS, its RssAnon (the process's own) and its RssFile (pages of files) of a root and four
        children from a package: 15 s after the start, and the highest while all read 512 MiB at
        once.
cold    CPU seconds of a root and a child from a package for blobs of 64 MiB, read one after another
        through the child: what code costs that has not run yet, or not for a while.
limits  one child reads a blob of 48 MiB that only the registry has, from one root; every byte is
        compared.
blobs   one child and its root in one life: 20,000 distinct blobs of 512 bytes, each read once;
        VmRSS, and what a full collection after each look leaves of heap and buffers (live).
edge    a container start as overlaybd does it (58 reads that open three layers, 300 random ones,
        four at a time) and a whole blob of 64 MiB, by agents in processes of their own on loopback
        and straight from the origin, which sends 100 MB/s (slow: 2.5 and 25 MB/s); every byte is
        compared. All agents share the processors of this machine; the first image finds agents that
        have just started.
roads   a blob of 64 MiB by each kind of URL that clients send, in pieces of 256 KiB, four at a
        time, by 2 and 16 agents and one root, next to the same straight from the origin, which
        sends 100 MB/s; then again beside four busy loops; every byte is compared.
own-way a blob of 64 MiB that only the client's token opens, by agents and straight from the
        registry, which sends 100 MB/s: in reads of 256 KiB, as one GET, and the reads of edge;
        every byte is compared.
roots   4 KiB of a new blob a second at each of four children, while one of two roots is stopped
        (SIGSTOP) for a minute; every byte is compared.
away    pulls of new images of 15 MiB through the mirror of one host, next to the same straight from
        the registry, while its only root is there, silent (SIGSTOP), or refuses connections.
pull    an image of 381 MB that no agent has, in layers of 1 to 180 MiB, pulled by real clients at
        1, 2 and 3 hosts at once, each through the mirror of its agent below one root, and straight
        from Debian's docker-registry. The agents are new each time, and nothing is unpacked. The
        root's figure stands first. All share the processors and the disk of this machine.
registries
        pulls by containerd through the mirror of one host below one root, next to the same straight
        from a registry that wants credentials which only the client has, or that ignores ranges and
        sends 50 MB/s; the quickest of three, each of an image that nobody has seen.
mixed   new layers of 94 MiB read by eight hosts below two roots: small and larger ranges at random
        places, four at a time, and by half of the hosts two layers whole; the origin sends 60 MB/s;
        every byte is compared.
convert an image of Debian packages (some 2 GB; the packages and layers stay in ~/.cache/xylem-test)
        from one registry to another, beside skopeo and gzip with the same layers; then an image of
        100,000 files in one directory, and one of 10 GiB, which compresses to an eighth. Needs
        30 GB of disk.
decode  the layers of that image in one thread, as gzip and as blocks; a first byte is that of a
        file or a layer that has just been opened.
workloads
        a host with a link of 100 Mbit/s, from the command to the first answer of a program: with
        containerd, which pulls and unpacks the image first, and with an agent that is new to the
        block image, whose root has such a link too; the second start has the agent's store. With
        a trace: a first start like the other, of the image with what 'xylem trace record' saw of
        the same command. A published example of a page to PDF, on other machines, is named beside
        it.
containers
        containerd and runc on one host, all on loopback, no link is shaped; the first answer of
        Python from an image of Debian packages. The longest read is one of 4 KiB past all caches,
        of six seconds of them, one at a time, that hit what the host holds.
`;

const SMOKE_NOTE =
  '\n--smoke: everything ran once at its smallest size; the verdicts on goals say nothing.\n';

/** Columns of what a row is of; longer texts push the value to the right. */
const WHAT_COLUMNS = 58;

function lineOf({ bench, what, value, unit, note }: BenchRow): string {
  const number = value >= 100 ? value.toFixed(0) : value.toPrecision(3);
  const more = note === undefined ? '' : `  (${note})`;
  return `${bench.padEnd(9)} ${what.padEnd(WHAT_COLUMNS)} ${number.padStart(9)} ${unit}${more}\n`;
}

function parse() {
  return parseArgs({
    allowPositionals: true,
    options: {
      ...{ smoke: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean' } },
      ...{ only: { type: 'string' }, shapes: { type: 'boolean' } },
    },
  });
}

function refuse(what: string): void {
  process.stderr.write(`${what}\n\n${HELP}`);
  process.exitCode = 2;
}

async function main({ values, positionals: names }: ReturnType<typeof parse>): Promise<void> {
  const { smoke = false, only, shapes } = values;
  if (values.help === true) {
    process.stdout.write(`${HELP}${NOTES}`);
    return;
  }
  const unknown = names.find((name) => benches[name] === undefined && parts[name] === undefined);
  if (unknown !== undefined) {
    return refuse(`no benchmark ${unknown}; known: ${Object.keys(benches).join(', ')}`);
  }
  const isJson = values.json === true;
  if (!isJson) {
    process.stdout.write(
      `Node ${process.version}, Linux ${release()}, ` +
        `${cpus().length} x ${cpus()[0]?.model ?? '?'}\n\n`,
    );
  }
  const rows: BenchRow[] = [];
  const printed = new Set<BenchRow>();
  // At once: a run that is cut short leaves what it has measured.
  const onRow = (row: BenchRow): void => {
    if (isJson || printed.has(row)) return;
    printed.add(row);
    process.stdout.write(lineOf(row));
  };
  for (const [name, bench] of Object.entries({ ...benches, ...parts })) {
    if (names.length > 0 ? !names.includes(name) : parts[name] !== undefined) continue;
    process.stderr.write(`running ${name}\n`);
    const found = await bench({ smoke, only, shapes, onRow });
    found.forEach(onRow);
    rows.push(...found);
  }
  if (isJson) {
    process.stdout.write(`${JSON.stringify(rows)}\n`);
    return;
  }
  process.stdout.write(smoke ? SMOKE_NOTE : NOTES);
}

let parsed: ReturnType<typeof parse> | undefined;
try {
  parsed = parse();
} catch (error) {
  refuse(errorText(error));
}
if (parsed !== undefined) await main(parsed);
