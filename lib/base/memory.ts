/** What may be left behind between two garbage collections: 16,384 items of a kilobyte or less. */
const itemsEach = 1 << 14;

/** Shorter lists leave too little behind to be worth the time. */
const worthFrom = 1 << 17;

let items = 0;
let all = 0;

/**
 * Count one more item of a long list, and collect garbage now and then.
 *
 * The runtime lets its heap grow with the memory of the machine, to some hundred megabytes here; on a login node that is
 * somebody else's. A collection takes some milliseconds, and comes after some hundred.
 *
 * @param weight of an item that leaves more behind than a kilobyte
 */
export function oneMore(weight = 1): void {
  items += weight;
  if (items < itemsEach) return;
  all += items;
  items = 0;
  if (all < worthFrom) return;
  if (typeof Bun !== "undefined") Bun.gc(true);
}
