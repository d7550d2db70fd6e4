import type { TraceAccess } from '../image/trace.ts';
import { MIB } from '../util/bytes.ts';
import { formatSizeBytes } from '../util/sizes.ts';
import { summaryOf, type LayerSummary } from './summary.ts';

/** The picture, in pixels: what is drawn, and the room around it. */
const PLOT = { left: 96, top: 64, width: 600, height: 380 };
const RIGHT = 264;
const BELOW = 64;

/** Least height of a layer, so that its label has room. */
const LAYER_HEIGHT_MIN = 30;
const GAP = 8;

/** Colours of layers, in turns, on light and on dark ground. */
const COLOURS = [
  ['#1f5fa8', '#79b4f2'],
  ['#b3541e', '#f2a06c'],
  ['#2b7a4b', '#74cf98'],
  ['#8a3ea8', '#d39aec'],
  ['#a12f45', '#f0899c'],
  ['#5c6b00', '#c3d24a'],
] as const;

/** A layer in the picture. */
interface Band extends LayerSummary {
  readonly endBytes: number;
  readonly y: number;
  readonly height: number;
  readonly colour: string;
}

/**
 * A picture of a trace, as an SVG file: from left to right what is read, in order, and from below
 * upwards where in which layer. A line that climbs is a read in order.
 */
export function plotTrace(name: string, accesses: readonly TraceAccess[]): string {
  const reads = accesses.filter(({ op }) => op === 'read');
  const { layers, readBytes } = summaryOf(reads);
  const bands = bandsOf(layers, reads);
  const bottom = Math.max(PLOT.top + PLOT.height, ...bands.map(({ y, height }) => y + height));
  const [width, height] = [PLOT.left + PLOT.width + RIGHT, bottom + BELOW];
  const xOf = (bytes: number): number => PLOT.left + (PLOT.width * bytes) / Math.max(1, readBytes);
  const size = `${formatSizeBytes(readBytes)} in ${reads.length} reads of ${layers.length} layers`;
  const middle = PLOT.left + PLOT.width / 2;
  const half = (PLOT.top + bottom) / 2;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
      `width="${width}" height="${height}" role="img">`,
    `<title>First reads of ${escaped(name)}</title>`,
    `<style>${style()}</style>`,
    `<rect class="ground" width="${width}" height="${height}"/>`,
    text(PLOT.left, 28, `First reads of ${shortened(name)}`, 'title'),
    text(PLOT.left, 48, size, 'note'),
    ...bands.flatMap((band) => drawn(band)),
    ...ticksOf(readBytes).flatMap((bytes) => [
      line([xOf(bytes), PLOT.top], [xOf(bytes), bottom], 'grid'),
      text(xOf(bytes), bottom + 20, String(bytes / MIB), 'middle'),
    ]),
    ...pathsOf(reads, bands, xOf),
    line([PLOT.left, bottom], [PLOT.left + PLOT.width, bottom], 'axis'),
    line([PLOT.left, PLOT.top], [PLOT.left, bottom], 'axis'),
    text(middle, bottom + 46, 'read so far, in order of the first touch [MiB]', 'middle'),
    `<text class="middle" transform="translate(20 ${half}) rotate(-90)">` +
      'offset in the uncompressed layer [MiB]</text>',
    '</svg>\n',
  ].join('\n');
}

/** The layers from below upwards, in heights by the bytes up to the last that is read. */
function bandsOf(layers: readonly LayerSummary[], reads: readonly TraceAccess[]): readonly Band[] {
  const ends = new Map<number, number>();
  for (const { layer, offset, length } of reads) {
    ends.set(layer, Math.max(ends.get(layer) ?? 0, offset + length));
  }
  const total = [...ends.values()].reduce((sum, end) => sum + end, 0);
  const count = layers.length;
  const height = Math.max(PLOT.height, count * (LAYER_HEIGHT_MIN + GAP));
  const spare = height - count * LAYER_HEIGHT_MIN - Math.max(0, count - 1) * GAP;
  let y = PLOT.top + height;
  return layers.map((layer, i) => {
    const endBytes = ends.get(layer.layer) ?? 0;
    const own = LAYER_HEIGHT_MIN + (spare * endBytes) / Math.max(1, total);
    y -= own + (i > 0 ? GAP : 0);
    return { ...layer, endBytes, y, height: own, colour: `c${i % COLOURS.length}` };
  });
}

function drawn(band: Band): readonly string[] {
  const { layer, readBytes, accessCount, endBytes, y, height, colour } = band;
  const right = PLOT.left + PLOT.width;
  const middle = y + height / 2;
  return [
    `<rect class="band" x="${PLOT.left}" y="${round(y)}" ` +
      `width="${PLOT.width}" height="${round(height)}"/>`,
    text(PLOT.left - 8, y + 10, mebibytes(endBytes), 'end'),
    text(PLOT.left - 8, y + height, '0', 'end'),
    `<rect class="${colour} fill" x="${right + 14}" y="${round(middle - 6)}" ` +
      'width="12" height="12"/>',
    text(
      right + 34,
      middle + 4,
      `layer ${layer}: ${formatSizeBytes(readBytes)} in ${accessCount} reads`,
      '',
    ),
  ];
}

/** A path for each layer: a dash for each read. */
function pathsOf(
  reads: readonly TraceAccess[],
  bands: readonly Band[],
  xOf: (bytes: number) => number,
): readonly string[] {
  const byLayer = new Map(bands.map((band) => [band.layer, { band, dashes: [] as string[] }]));
  let done = 0;
  for (const { layer, offset, length } of reads) {
    const of = byLayer.get(layer);
    if (of === undefined) continue;
    const { y, height, endBytes } = of.band;
    const yOf = (bytes: number): number => y + height * (1 - bytes / Math.max(1, endBytes));
    const from = `${round(xOf(done))} ${round(yOf(offset))}`;
    const to = `${round(xOf(done + length))} ${round(yOf(offset + length))}`;
    of.dashes.push(`M${from}L${to}`);
    done += length;
  }
  return [...byLayer.values()].map(
    ({ band, dashes }) => `<path class="${band.colour} read" d="${dashes.join('')}"/>`,
  );
}

/** Round numbers of MiB, at most ten of them. */
function ticksOf(bytes: number): readonly number[] {
  const least = bytes / MIB / 8;
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1e-3)));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= least) ?? 1;
  const count = Math.floor(bytes / MIB / step);
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(6)) * MIB);
}

function mebibytes(bytes: number): string {
  return String(Number((bytes / MIB).toPrecision(3)));
}

/** In colours by value, not by variables, which some programs that draw SVG do not know. */
function style(): string {
  return [
    'text{font:12px system-ui,sans-serif}.title{font-size:16px;font-weight:600}',
    '.middle{text-anchor:middle}.end{text-anchor:end}',
    '.read{stroke-width:3;stroke-linecap:round;fill:none}',
    paint(0, { paper: '#ffffff', ink: '#1c2126', soft: '#f3f5f7', grid: '#d5dae0' }),
    '@media (prefers-color-scheme: dark){',
    paint(1, { paper: '#15191d', ink: '#e6eaee', soft: '#1f262c', grid: '#414c56' }),
    '}',
  ].join('\n');
}

function paint(
  which: 0 | 1,
  { paper, ink, soft, grid }: Readonly<Record<'paper' | 'ink' | 'soft' | 'grid', string>>,
): string {
  const layers = COLOURS.map(
    (colours, i) => `.c${i}.read{stroke:${colours[which]}}.c${i}.fill{fill:${colours[which]}}`,
  );
  return [
    `text{fill:${ink}}.ground{fill:${paper}}.band{fill:${soft}}`,
    `.grid{stroke:${grid}}.axis{stroke:${ink}}`,
    ...layers,
  ].join('');
}

function text(x: number, y: number, content: string, kind: string): string {
  return `<text class="${kind}" x="${round(x)}" y="${round(y)}">${escaped(content)}</text>`;
}

function line(from: readonly [number, number], to: readonly [number, number], kind: string) {
  const [x1, y1, x2, y2] = [...from, ...to].map(round);
  return `<line class="${kind}" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"/>`;
}

function round(value: number): number {
  return Number(value.toFixed(1));
}

/** The end of a long name says more than its start. */
function shortened(name: string): string {
  return name.length <= 80 ? name : `...${name.slice(-77)}`;
}

function escaped(content: string): string {
  const names: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };
  return content
    .replaceAll(/[&<>]/g, (mark) => names[mark] ?? mark)
    .replaceAll(/[\u0000-\u001f]/g, '?');
}
