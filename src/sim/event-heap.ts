/** Room for events at the start; doubles when the heap is full. */
const CAPACITY_MIN = 1024;

/**
 * The future events: a binary heap by (time, order of scheduling), so that events of equal times
 * come out in the order of `push()`. Keys live in typed arrays; an entry costs no object of its
 * own.
 */
export class EventHeap<E> {
  #atMs = new Float64Array(CAPACITY_MIN);
  #order = new Float64Array(CAPACITY_MIN);
  #events: (E | undefined)[] = [];
  #count = 0;
  #scheduled = 0;

  /** Events that wait in the heap. */
  get count(): number {
    return this.#count;
  }

  /** Events pushed so far. */
  get scheduled(): number {
    return this.#scheduled;
  }

  /** Time of the next event; undefined when there is none. */
  get nextMs(): number | undefined {
    return this.#count === 0 ? undefined : this.#atMs[0];
  }

  push(atMs: number, event: E): void {
    if (this.#count === this.#atMs.length) this.#grow();
    const order = this.#scheduled++;
    let hole = this.#count++;
    while (hole > 0) {
      const parent = (hole - 1) >> 1;
      // A later order never overtakes an equal time.
      if (this.#atMs[parent]! <= atMs) break;
      this.#move(parent, hole);
      hole = parent;
    }
    this.#put(hole, atMs, order, event);
  }

  /** Takes out the next event and returns it; undefined when there is none. */
  pop(): E | undefined {
    if (this.#count === 0) return undefined;
    const first = this.#events[0];
    const last = --this.#count;
    const atMs = this.#atMs[last]!;
    const order = this.#order[last]!;
    const event = this.#events[last] as E;
    this.#events[last] = undefined;
    if (last > 0) this.#siftDown(atMs, order, event);
    return first;
  }

  #siftDown(atMs: number, order: number, event: E): void {
    let hole = 0;
    for (;;) {
      let child = 2 * hole + 1;
      if (child >= this.#count) break;
      if (child + 1 < this.#count && this.#before(child + 1, child)) child++;
      const childAtMs = this.#atMs[child]!;
      if (atMs < childAtMs || (atMs === childAtMs && order < this.#order[child]!)) break;
      this.#move(child, hole);
      hole = child;
    }
    this.#put(hole, atMs, order, event);
  }

  #before(a: number, b: number): boolean {
    const x = this.#atMs[a]!;
    const y = this.#atMs[b]!;
    return x < y || (x === y && this.#order[a]! < this.#order[b]!);
  }

  #move(from: number, to: number): void {
    this.#atMs[to] = this.#atMs[from]!;
    this.#order[to] = this.#order[from]!;
    this.#events[to] = this.#events[from];
  }

  // Four parameters: the parts of one entry.
  #put(at: number, atMs: number, order: number, event: E): void {
    this.#atMs[at] = atMs;
    this.#order[at] = order;
    this.#events[at] = event;
  }

  #grow(): void {
    const atMs = new Float64Array(this.#atMs.length * 2);
    const order = new Float64Array(this.#atMs.length * 2);
    atMs.set(this.#atMs);
    order.set(this.#order);
    this.#atMs = atMs;
    this.#order = order;
  }
}
