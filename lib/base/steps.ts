/**
 * Work on files written once, that runs at the speed of a local disk and with a hundred requests in flight on slow storage.
 *
 * A system call on a local disk takes microseconds: waiting for it is cheaper than handing it to another thread. On network
 * storage it takes milliseconds, and only requests in flight help. So work is a generator that yields a promise where
 * it has to wait, and none where the answer is there at once; whoever runs it does the rest.
 */

/** An answer that is there, or that will be. */
export type Maybe<T> = T | Promise<T>;

/** Work in steps: yields what it waits for, returns its result. */
export type Steps<T> = Generator<Promise<unknown>, T, unknown>;

/** Inside {@link Steps}: `const fd = yield* get(storage.open(path))`. */
export function* get<T>(answer: Maybe<T>): Steps<T> {
  return answer instanceof Promise ? ((yield answer) as T) : answer;
}

/** Run work to its end, on its own: the result at once if it never waits. */
export function walk<T>(steps: Steps<T>): Maybe<T> {
  const turn = steps.next();
  return turn.done ? turn.value : goOn(steps, turn);
}

async function goOn<T>(steps: Steps<T>, first: IteratorResult<Promise<unknown>, T>): Promise<T> {
  let turn = first;
  while (!turn.done) {
    let answer: unknown;
    try {
      answer = await turn.value;
    } catch (error) {
      turn = steps.throw(error);
      continue;
    }
    turn = steps.next(answer);
  }
  return turn.value;
}
