/** What came of one way to an image. */
export interface Cell {
  readonly way: 'straight' | 'lazy, straight' | 'mirror' | 'prefix' | 'preheat';
  /** `ok`, or what the client was told. */
  readonly outcome: string;
  /** Requests at the registry and its storage. */
  readonly requests: number;
  readonly seconds: number;
  /** The same requests, one a line. */
  readonly asked: readonly string[];
  /** In what it is worse than straight. */
  readonly worse?: string;
}

/** One kind of server. */
export interface Row {
  readonly kind: string;
  readonly seen: string;
  readonly straight: Cell;
  readonly lazyStraight: Cell;
  readonly cells: readonly Cell[];
  /** What containerd asked the registry itself while it had the agent for a mirror. */
  readonly past: readonly string[];
}
