/** A timer of a `TimerHeap`. Set `action` to undefined to cancel it. */
export interface HeapTimer<A> {
  readonly atMs: number;
  readonly order: number;
  action: A | undefined;
}

/**
 * Timers of a reducer: a binary heap by (time, order of setting), so that timers of equal time fire
 * in the order of setting. Cancelled timers stay in the heap until their time.
 */
export class TimerHeap<A> {
  readonly #heap: HeapTimer<A>[] = [];
  #count = 0;

  /** Time of the next live timer in clock milliseconds; undefined when there is none. */
  get nextMs(): number | undefined {
    while (this.#heap.length > 0 && this.#heap[0]?.action === undefined) this.#removeFirst();
    return this.#heap[0]?.atMs;
  }

  set(atMs: number, action: A): HeapTimer<A> {
    const timer: HeapTimer<A> = { atMs, order: this.#count++, action };
    this.#heap.push(timer);
    this.#siftUp(this.#heap.length - 1);
    return timer;
  }

  /** Removes the next due timer and gives its action; undefined when none is due. */
  takeDue(nowMs: number): A | undefined {
    const next = this.nextMs;
    if (next === undefined || next > nowMs) return undefined;
    return this.#removeFirst()?.action;
  }

  #removeFirst(): HeapTimer<A> | undefined {
    const first = this.#heap[0];
    const last = this.#heap.pop();
    if (last !== undefined && this.#heap.length > 0) {
      this.#heap[0] = last;
      this.#siftDown();
    }
    return first;
  }

  #siftUp(start: number): void {
    let child = start;
    while (child > 0) {
      const parent = (child - 1) >> 1;
      if (!this.#before(child, parent)) return;
      this.#swap(child, parent);
      child = parent;
    }
  }

  #siftDown(): void {
    let parent = 0;
    for (;;) {
      let least = parent;
      const left = 2 * parent + 1;
      if (left < this.#heap.length && this.#before(left, least)) least = left;
      if (left + 1 < this.#heap.length && this.#before(left + 1, least)) least = left + 1;
      if (least === parent) return;
      this.#swap(least, parent);
      parent = least;
    }
  }

  #before(a: number, b: number): boolean {
    const x = this.#heap[a];
    const y = this.#heap[b];
    if (x === undefined || y === undefined) return false;
    return x.atMs < y.atMs || (x.atMs === y.atMs && x.order < y.order);
  }

  #swap(a: number, b: number): void {
    const x = this.#heap[a];
    const y = this.#heap[b];
    if (x === undefined || y === undefined) return;
    this.#heap[a] = y;
    this.#heap[b] = x;
  }
}
