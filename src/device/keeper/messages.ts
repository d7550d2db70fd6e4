/** What a kept process tells its keeper, as JSON over Node's channel between the two. */
export type ToKeeper =
  /** Hold the descriptor `fd` of this process under this name. */
  | { readonly say: 'keep'; readonly name: string; readonly fd: number }
  /** Close the descriptor of this name. */
  | { readonly say: 'forget'; readonly name: string }
  /** Give this text to the next process, in `REMEMBERED_VARIABLE`; nothing when it is empty. */
  | { readonly say: 'remember'; readonly text: string }
  /** Everything inherited is in use again. */
  | { readonly say: 'ready' };

/** What the keeper tells the kept process. */
export type FromKeeper =
  /** The answer to `keep`; with `error`, the keeper does not hold it. */
  | { readonly say: 'kept'; readonly name: string; readonly error?: string }
  /** A new process is about to take over: end what is in hand, then end. */
  | { readonly say: 'yield' };

/**
 * The variable by which the kept process finds what it inherits: a JSON object of names and
 * descriptors. A process without it has no keeper.
 */
export const INHERITED_VARIABLE = '_XYLEM_INHERITED';

/** The variable with the text that an earlier process had the keeper remember. */
export const REMEMBERED_VARIABLE = '_XYLEM_REMEMBERED';

/** Longest such text: less than a variable may have. */
export const REMEMBERED_CHARS_MAX = 64 * 1024;
