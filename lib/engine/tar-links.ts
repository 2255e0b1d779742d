/** Paths in an archive, and where its symbolic links lead: text only, nothing is asked of a file system. */
import type { ByteString } from "../base/bytes.ts";
import { Malformed } from "./tar-format.ts";

/** As many links as the kernel follows (path_resolution(7)). */
const mostHops = 40;

/**
 * Where a symbolic link of the tree points, by its path: undefined if there is none, null for one that leaves the tree and
 * is wanted all the same.
 */
export type LinkAt = (path: ByteString) => ByteString | null | undefined;

/**
 * Does a symbolic link lead to somewhere below the root of its tree, or to nothing, however other links of the tree are
 * on its way? One that ends at a link that is wanted does, one that goes on from there does not, and none of a loop.
 *
 * @param path of the link, below directories that are none
 */
export function staysInside(path: ByteString, text: ByteString, linkAt: LinkAt): boolean {
  const at = path.split("/").slice(0, -1);
  const todo = [text];
  for (let hops = 1; todo.length > 0; ) {
    const rest = todo.pop() as ByteString;
    if (rest.startsWith("/")) return false;
    const slash = rest.indexOf("/");
    const part = slash === -1 ? rest : rest.slice(0, slash);
    if (slash !== -1) {
      const after = rest.slice(slash).replace(/^\/+/, "");
      if (after !== "") todo.push(after);
    }
    if (part === "" || part === ".") continue;
    if (part === "..") {
      if (at.pop() === undefined) return false;
      continue;
    }
    at.push(part);
    const next = linkAt(at.join("/"));
    if (next === undefined) continue;
    if (next === null) return todo.length === 0;
    if (++hops > mostHops) return false;
    at.pop();
    todo.push(next);
  }
  return true;
}

const plain = /^(?!\.{0,2}\/)(?!\.{1,2}$)(?!.*\/(?:\.{0,2}\/|\.{0,2}$))[^\0]+$/s;

/**
 * A path of an archive without `./`, `//` and a slash at its end; the root is "".
 *
 * @throws {Malformed} where it is absolute, or goes up
 */
export function cleanPath(path: ByteString, type: "dir" | "other"): ByteString {
  if (plain.test(path)) return path;
  if (type === "dir" && path === "/") return ""; // Python's tarfile makes it of an empty name
  if (path.includes("\0")) throw new Malformed("has a zero byte in its name");
  if (path.startsWith("/")) throw new Malformed("has an absolute path");
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..")) throw new Malformed('has ".." in its path');
  if (type === "other" && (parts.length === 0 || /(^|\/)\.?$/.test(path))) throw new Malformed("has no name");
  return parts.join("/");
}
