/** Gives 1, 2, 3, and so on. */
export function counter(): () => number {
  let count = 0;
  return () => ++count;
}
