import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { ConversionError } from '../../acceleration/failures.ts';
import {
  INDEX_PLATFORM,
  type AccelerationProgress,
  type BlockImage,
  type Conversion,
  type MadeManifest,
} from '../../acceleration/messages.ts';
import type { ConvertOptions } from '../../acceleration/service.ts';
import type { ConversionResult } from '../../convert/convert-image.ts';
import type { KeptLayer } from '../../convert/layer-cache.ts';
import type { JobFolder } from './job-folder.ts';
import { platformName } from '../../registry/platform.ts';

/** The program, seen from src and from dist. */
const PROGRAM = fileURLToPath(new URL('../../../bin/xylem.js', import.meta.url));

/** All other work of the host goes first. */
const NICENESS = 19;

/** Time to end cleanly, so that nothing stays in the registry's uploads; less than a stop has. */
const END_MS = 4_000;

/** Bytes of the one object that it prints. */
const ANSWER_BYTES_MAX = 16 * 1024 * 1024;

/** Of the environment: what a program needs, and what leads to registries. */
const VARIABLES = [
  'PATH',
  'LANG',
  'HTTP_PROXY',
  'HTTPS_PROXY',
  'NO_PROXY',
  'http_proxy',
  'https_proxy',
  'no_proxy',
  'NODE_EXTRA_CA_CERTS',
  'SSL_CERT_FILE',
  'SSL_CERT_DIR',
] as const;

const PLATFORM_ADVICE = 'acceleration.allPlatforms makes block images for all platforms';

/** What is converted, and how. */
export interface ConversionOrder {
  /** `docker://host/name@digest` */
  readonly source: string;
  /** `docker://host/name:tag`; undefined: no tag. */
  readonly target: string | undefined;
  readonly compression: string;
  readonly blockSize: string;
  /** The only one; undefined: all that the image has. */
  readonly platform: string | undefined;
  /** Written into the layers that are kept. */
  readonly owner: string;
}

/**
 * Runs `xylem convert` as a process of its own: the lowest priority, the user of the folder, and
 * nothing of this one's environment that it does not need. It ends with this one, since it sees
 * that nobody reads its progress any more.
 *
 * Rejects with ConversionError, or with the signal's reason once the process has ended.
 */
export async function runConversion(
  order: ConversionOrder,
  folder: JobFolder,
  options: ConvertOptions,
): Promise<Conversion> {
  const { signal, onProgress, onMade } = options;
  signal.throwIfAborted();
  const { source, target, compression, blockSize, platform, owner } = order;
  const layerTags = new Set<string>();
  const onKept = ({ tag, digest, blobs, owner: putBy }: KeptLayer): void => {
    layerTags.add(tag);
    if (putBy === owner) onMade({ kind: 'layer', digest, tag, blobs });
  };
  const child = spawn(
    'nice',
    [
      ...['-n', String(NICENESS), process.execPath, PROGRAM, 'convert'],
      ...['--json', '--progress', 'json', '--referrer', '--owner', owner],
      ...['--config', folder.configFile, '--work-dir', folder.path],
      ...['--compression', compression, '--block-size', blockSize],
      ...(platform === undefined ? [] : ['--platform', platform]),
      ...['--', source, ...(target === undefined ? [] : [target])],
    ],
    {
      cwd: folder.path,
      env: environmentOf(folder),
      stdio: ['ignore', 'pipe', 'pipe'],
      ...folder.user,
    },
  );
  const end = (): void => endChild(child);
  signal.addEventListener('abort', end, { once: true });
  try {
    const ended = endOf(child);
    const [answer, complaint, { code, killedBy, error }] = await Promise.all([
      textOf(child.stdout),
      readProgress(child.stderr, onProgress, onKept),
      ended,
    ]);
    signal.throwIfAborted();
    if (error !== undefined) throw startError(error);
    const facts = parsed(answer);
    if (code === 0 && facts !== undefined) {
      const result = facts as ConversionResult;
      for (const made of madeIn(result)) onMade(made);
      return { images: imagesOf(result), layerTags: [...layerTags] };
    }
    throw conversionError(facts, { complaint, how: code ?? killedBy ?? 'nothing' });
  } finally {
    signal.removeEventListener('abort', end);
  }
}

function environmentOf(folder: JobFolder): Record<string, string> {
  const environment: Record<string, string> = { HOME: folder.path, TMPDIR: folder.path };
  for (const name of VARIABLES) {
    const value = process.env[name];
    if (value !== undefined) environment[name] = value;
  }
  return environment;
}

function endChild(child: ChildProcess): void {
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), END_MS);
  child.once('exit', () => clearTimeout(timer));
}

interface End {
  readonly code: number | null;
  readonly killedBy: string | null;
  readonly error?: NodeJS.ErrnoException;
}

function endOf(child: ChildProcess): Promise<End> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: null, killedBy: null, error }));
    child.once('close', (code, killedBy) => resolve({ code, killedBy }));
  });
}

async function textOf(stream: Readable): Promise<string> {
  const pieces: Buffer[] = [];
  let sizeBytes = 0;
  for await (const piece of stream as AsyncIterable<Buffer>) {
    sizeBytes += piece.length;
    if (sizeBytes <= ANSWER_BYTES_MAX) pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

/** Tells the progress, and what is kept; resolves with the last line that is neither. */
async function readProgress(
  stream: Readable,
  onProgress: (progress: AccelerationProgress) => void,
  onKept: (layer: KeptLayer) => void,
): Promise<string> {
  let complaint = '';
  for await (const line of createInterface({ input: stream })) {
    const { progress, kept } = Object(parsed(line)) as {
      progress?: AccelerationProgress;
      kept?: KeptLayer;
    };
    if (kept !== undefined) onKept(kept);
    else if (progress === undefined) complaint = line;
    else if (progress.step !== '') onProgress(progress);
  }
  return complaint;
}

/** The index comes first: it names the others. */
function imagesOf({ digest, sourceDigest, platforms }: ConversionResult): readonly BlockImage[] {
  const isIndex = platforms.every(({ manifest }) => manifest.digest !== digest);
  return [
    ...(isIndex ? [{ platform: INDEX_PLATFORM, sourceDigest, digest }] : []),
    ...platforms.map((each) => ({
      platform: platformName(each.platform),
      sourceDigest: each.sourceDigest,
      digest: each.manifest.digest,
    })),
  ];
}

/** What was not there before. */
function madeIn(result: ConversionResult): readonly MadeManifest[] {
  const { digest, sourceDigest, isNew = false, platforms } = result;
  const index: MadeManifest = { kind: 'image', digest, subject: sourceDigest, blobs: [] };
  return [
    ...(isNew ? [index] : []),
    ...platforms.flatMap((each): readonly MadeManifest[] => {
      if (each.isNew !== true) return [];
      const { manifest, layers, accelerationLayer } = each;
      const blobs = [...layers, accelerationLayer].map((blob) => ({
        digest: blob.digest,
        sizeBytes: blob.sizeBytes,
      }));
      return [{ kind: 'image', digest: manifest.digest, subject: each.sourceDigest, blobs }];
    }),
  ];
}

function conversionError(
  facts: object | undefined,
  { complaint, how }: { readonly complaint: string; readonly how: string | number },
): ConversionError {
  const { error, code } = Object(facts) as { error?: unknown; code?: unknown };
  if (typeof error === 'string' && typeof code === 'string') {
    const advice = code === 'no-platform' ? `; ${PLATFORM_ADVICE}` : '';
    return new ConversionError(error + advice, { code });
  }
  const why = complaint === '' ? '' : `: ${complaint}`;
  const hint = how === 'SIGKILL' ? ' (did it run out of memory?)' : '';
  return new ConversionError(`the conversion ended with ${how}${hint}${why}`, { code: 'other' });
}

function startError(error: NodeJS.ErrnoException): ConversionError {
  const what = error.code === 'ENOENT' ? 'the program `nice` is missing' : error.message;
  return new ConversionError(`the conversion cannot be started: ${what}`, { code: 'tool' });
}

function parsed(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
