import { writeError } from "../base/errors.ts";
import { tempDirFor } from "../engine/temp.ts";

/**
 * A directory of our own, removed when disposed, for what will lie in `parent`.
 *
 * @throws {EfError} NO_SPACE, IO
 */
export function tempDirIn(parent: string, prefix: string): ReturnType<typeof tempDirFor> {
  try {
    return tempDirFor(parent, prefix);
  } catch (error) {
    throw writeError(`Cannot write to ${parent}`, parent, error);
  }
}
