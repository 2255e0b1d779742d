/** The known word that differs from `word` in the fewest letters, if few enough to be a typing error. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const scored = known
    .map((each) => {
      const [own, other] = withoutCommon(word, each);
      return { each, distance: editDistance(own, other), limit: limitFor(own) };
    })
    .filter(({ distance, limit }) => distance <= limit)
    .sort((a, b) => a.distance - b.distance);
  return scored[0]?.each;
}

/** How many letters of a word may be wrong: fewer than half of them. */
function limitFor(word: string): number {
  const limit = word.length < 4 ? 1 : Math.max(2, Math.floor(word.length / 3));
  return Math.min(limit, Math.ceil(word.length / 2) - 1);
}

/** Both without the words that they begin with alike: what is right says nothing of what is wrong. */
function withoutCommon(a: string, b: string): [string, string] {
  let start = 0;
  for (let i = 0; i < Math.min(a.length, b.length) && a[i] === b[i]; i++) if (/[ .]/.test(a[i] ?? "")) start = i + 1;
  return [a.slice(start), b.slice(start)];
}

/** Letters to change, add, leave out or exchange with the next one (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const isExchange = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const exchange = isExchange ? (before[j - 2] ?? 0) + 1 : change;
      next.push(Math.min(change, exchange, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    before = row;
    row = next;
  }
  return row[b.length] ?? 0;
}
