/** Byte strings looked for in what passes by. */

export const holds = (bytes: Uint8Array, needles: readonly Uint8Array[]): boolean => {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return needles.some((needle) => all.includes(needle));
};

/** Looks for byte strings in contents that come in parts. */
export class Search {
  found = false;
  readonly #needles: readonly Uint8Array[];
  readonly #overlap: number;
  /** The end of what came before. */
  #end: Buffer = Buffer.alloc(0);

  /** @param needles at least one, none empty */
  constructor(needles: readonly Uint8Array[]) {
    this.#needles = needles;
    this.#overlap = Math.max(...needles.map(({ length }) => length)) - 1;
  }

  in(part: Uint8Array): void {
    if (this.found) return;
    const overlap = this.#overlap;
    const seam = Buffer.concat([this.#end, part.subarray(0, overlap)]);
    this.found = holds(seam, this.#needles) || holds(part, this.#needles);
    this.#end = Buffer.from(
      part.length < overlap ? seam.subarray(-overlap || seam.length) : part.subarray(part.length - overlap),
    );
  }
}
