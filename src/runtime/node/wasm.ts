import { setFlagsFromString } from 'node:v8';

// Code that has run for a while asks V8 to be optimized, at which V8 12.4 (Node 22.23) ended a
// process (`Runtime_WasmTriggerTierUp`, "Check failed: it->second.Size() > offset"). With this flag
// each function is optimized after its first call, in the background. It counts for all modules
// that this process compiles from here on, in all threads: the HTTP parser of undici, too. LZ4
// decodes no slower (`npm run bench decode`).
setFlagsFromString('--no-wasm-dynamic-tiering');

/**
 * Instructions of WebAssembly as bytes, in the order of its text format's folded form: the few that
 * src/runtime/node/lz4-decoder.ts needs. All values are i32, but for copies of 16 bytes.
 */
export type Code = readonly number[];

const I32 = 0x7f;
const NO_RESULT = 0x40;
const END = 0x0b;

function unsigned(value: number): Code {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return [...bytes, rest];
    bytes.push((rest & 0x7f) | 0x80);
  }
}

function signed(value: number): Code {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>= 7) {
    const isLast = rest >= -64 && rest < 64;
    if (isLast) return [...bytes, rest & 0x7f];
    bytes.push((rest & 0x7f) | 0x80);
  }
}

const binary =
  (opcode: number) =>
  (a: Code, b: Code): Code => [...a, ...b, opcode];

/** Comparisons of unsigned numbers: 1 or 0. */
export const compare = {
  equal: binary(0x46),
  below: binary(0x49),
  above: binary(0x4b),
  atLeast: binary(0x4f),
} as const;

/** Arithmetic of unsigned numbers. */
export const math = {
  add: binary(0x6a),
  sub: binary(0x6b),
  and: binary(0x71),
  shiftRight: binary(0x76),
} as const;

/** A constant. */
export const number = (value: number): Code => [0x41, ...signed(value)];

/** The byte at an address. */
export const load8 = (address: Code): Code => [...address, 0x2d, 0, 0];

/** The two bytes at an address, little-endian. */
export const load16 = (address: Code): Code => [...address, 0x2f, 0, 0];

/** Copies a byte. */
export const copy1 = (to: Code, from: Code): Code => [...to, ...load8(from), 0x3a, 0, 0];

/** Copies 16 bytes, which are all read before the first one is written. */
export const copy16 = (to: Code, from: Code): Code => {
  const loaded = [...from, 0xfd, 0, 0, 0];
  return [...to, ...loaded, 0xfd, 11, 0, 0];
};

/** A parameter or a variable of a function. */
export class Local {
  readonly #index: number;

  constructor(index: number) {
    this.#index = index;
  }

  get value(): Code {
    return [0x20, ...unsigned(this.#index)];
  }

  set(value: Code): Code {
    return [...value, 0x21, ...unsigned(this.#index)];
  }

  increase(by: Code): Code {
    return this.set(math.add(this.value, by));
  }
}

/** Runs the body when the condition is not 0. */
export const when = (condition: Code, ...body: readonly Code[]): Code => [
  ...condition,
  ...[0x04, NO_RESULT],
  ...body.flat(),
  END,
];

/** Runs one of two bodies. */
export const choose = (condition: Code, yes: Code, no: Code): Code => [
  ...condition,
  ...[0x04, NO_RESULT],
  ...[...yes, 0x05, ...no],
  END,
];

/** Runs the body, and again while the condition is not 0 after it. */
export const doWhile = (condition: Code, ...body: readonly Code[]): Code => [
  ...[0x03, NO_RESULT],
  ...body.flat(),
  ...[...condition, 0x0d, 0],
  END,
];

/** Runs the body until it returns. */
export const forever = (...body: readonly Code[]): Code => [
  ...[0x03, NO_RESULT],
  ...body.flat(),
  ...[0x0c, 0],
  ...[END, 0x00],
];

/** Ends the function. */
export const give = (value: Code): Code => [...value, 0x0f];

/**
 * A module with the memory that it imports as `env.memory` and one function, which it exports as
 * `run`: `parameters` and `variables` are numbers of i32, and it gives an i32.
 */
export function makeModule(init: {
  readonly parameters: number;
  readonly variables: number;
  readonly body: Code;
}): Uint8Array<ArrayBuffer> {
  const { parameters, variables, body } = init;
  const type = [0x60, parameters, ...Array<number>(parameters).fill(I32), 1, I32];
  const code = [1, ...unsigned(variables), I32, ...body, END];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, type),
    ...section(2, [...text('env'), ...text('memory'), 2, 0, 1]),
    ...section(3, [0]),
    ...section(7, [...text('run'), 0, 0]),
    ...section(10, [...unsigned(code.length), ...code]),
  ]);
}

/** A section of one entry. */
function section(id: number, entry: Code): Code {
  return [id, ...unsigned(entry.length + 1), 1, ...entry];
}

function text(value: string): Code {
  const bytes = new TextEncoder().encode(value);
  return [bytes.length, ...bytes];
}
