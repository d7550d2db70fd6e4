import {
  choose,
  compare,
  copy1,
  copy16,
  doWhile,
  forever,
  give,
  load16,
  load8,
  Local,
  makeModule,
  math,
  number,
  when,
  type Code,
} from './wasm.ts';

/** Largest block decoded here, encoded or not, in bytes; ZFile has blocks of up to 64 KiB. */
export const LZ4_BLOCK_BYTES_MAX = 68 * 1024;

/** Copies of 16 bytes may read and write up to 15 bytes beyond the end of what they copy. */
const SLACK_BYTES = 16;

const PAGE_BYTES = 64 * 1024;
const SOURCE_AT = 0;
const TARGET_AT = SOURCE_AT + LZ4_BLOCK_BYTES_MAX + SLACK_BYTES;
const MEMORY_BYTES = TARGET_AT + LZ4_BLOCK_BYTES_MAX + SLACK_BYTES;

/** What the decoder gives for input that is damaged. */
const DAMAGED = -1;

type Run = (source: number, sourceBytes: number, target: number, limit: number) => number;

/**
 * Decodes raw LZ4 blocks in WebAssembly. Damaged input cannot reach beyond the decoder's own
 * memory. An instance serves one thread.
 *
 * Blocks of 4 KiB of a program take 1.7 us; lz4-napi takes 3.7 us, since each result is a new
 * Buffer.
 */
export class Lz4Decoder {
  readonly #memory: Uint8Array;
  readonly #run: Run;
  /** Where the decoded bytes are: kept, since most blocks have one size. */
  #decoded: Uint8Array;

  constructor() {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(MEMORY_BYTES / PAGE_BYTES) });
    const module = new WebAssembly.Module(MODULE);
    const { run } = new WebAssembly.Instance(module, { env: { memory } }).exports;
    this.#memory = new Uint8Array(memory.buffer);
    this.#run = run as Run;
    this.#decoded = this.#memory.subarray(TARGET_AT, TARGET_AT);
  }

  /**
   * Fills the target, whose first bytes may be filled even then when it fails: false for input that
   * is damaged or decodes to another size. Both have at most `LZ4_BLOCK_BYTES_MAX` bytes.
   */
  decode(source: Uint8Array, target: Uint8Array): boolean {
    this.#memory.set(source, SOURCE_AT);
    const count = this.#run(SOURCE_AT, source.length, TARGET_AT, target.length);
    if (count !== target.length) return false;
    if (this.#decoded.length !== count) {
      this.#decoded = this.#memory.subarray(TARGET_AT, TARGET_AT + count);
    }
    target.set(this.#decoded);
    return true;
  }
}

/**
 * The decoder of the LZ4 block format (lz4_Block_format.md): parameters are the place and size of
 * the source, the place of the target and its size; gives the decoded bytes, or `DAMAGED`.
 *
 *     sequence  token u8 | more literals' length | literals | offset u16 | more match length
 *
 * The last sequence ends after its literals.
 */
function decoderCode(): Code {
  const { add, and, shiftRight, sub } = math;
  const { above, atLeast, below, equal } = compare;
  const at = new Local(0); // Next byte of the source.
  const sourceBytes = new Local(1);
  const target = new Local(2);
  const limit = new Local(3);
  const sourceEnd = new Local(4);
  const to = new Local(5); // Next byte of the target.
  const targetEnd = new Local(6);
  const token = new Local(7);
  const length = new Local(8);
  const from = new Local(9);
  const end = new Local(10); // Of the copy.
  const distance = new Local(11);
  const more = new Local(12);

  const fail = give(number(DAMAGED));
  const failWhen = (condition: Code): Code => when(condition, fail);
  const left = (last: Local, next: Local): Code => sub(last.value, next.value);

  /** A length of 15 goes on in bytes, up to one that is not 255. */
  const extendLength = when(
    equal(length.value, number(15)),
    doWhile(
      equal(more.value, number(255)),
      failWhen(atLeast(at.value, sourceEnd.value)),
      more.set(load8(at.value)),
      at.increase(number(1)),
      length.increase(more.value),
    ),
  );
  const step = (bytes: number): Code => [
    ...from.increase(number(bytes)),
    ...to.increase(number(bytes)),
  ];
  const isLeft = below(to.value, end.value);
  const copyWide = doWhile(isLeft, copy16(to.value, from.value), step(16));
  const copyBytes = doWhile(isLeft, copy1(to.value, from.value), step(1));

  return [
    ...sourceEnd.set(add(at.value, sourceBytes.value)),
    ...to.set(target.value),
    ...targetEnd.set(add(target.value, limit.value)),
    ...forever(
      failWhen(atLeast(at.value, sourceEnd.value)),
      token.set(load8(at.value)),
      at.increase(number(1)),
      length.set(shiftRight(token.value, number(4))),
      extendLength,
      failWhen(above(length.value, left(targetEnd, to))),
      failWhen(above(length.value, left(sourceEnd, at))),
      end.set(add(to.value, length.value)),
      from.set(at.value),
      copyWide,
      to.set(end.value),
      at.increase(length.value),
      when(equal(at.value, sourceEnd.value), give(sub(to.value, target.value))),
      failWhen(below(left(sourceEnd, at), number(2))),
      distance.set(load16(at.value)),
      at.increase(number(2)),
      failWhen(equal(distance.value, number(0))),
      failWhen(above(distance.value, left(to, target))),
      length.set(and(token.value, number(15))),
      extendLength,
      length.increase(number(4)),
      failWhen(above(length.value, left(targetEnd, to))),
      from.set(sub(to.value, distance.value)),
      end.set(add(to.value, length.value)),
      // A match may overlap what it makes: then its bytes come one after the other.
      choose(atLeast(distance.value, number(16)), copyWide, copyBytes),
      to.set(end.value),
    ),
  ];
}

const MODULE = makeModule({ parameters: 4, variables: 9, body: decoderCode() });
