/** The syntax of Python, read by tree-sitter. No Python is run, and none needs to be there. */
import { readFileSync } from "node:fs";
import { isAbsolute } from "node:path";
import { fileURLToPath } from "node:url";
import pythonWasm from "tree-sitter-python/tree-sitter-python.wasm" with { type: "file" };
import type { Node, Parser } from "web-tree-sitter";
import treeSitterWasm from "web-tree-sitter/web-tree-sitter.wasm" with { type: "file" };
import { EfError } from "../base/errors.ts";

export type { Node } from "web-tree-sitter";

let ready: Promise<Parser> | undefined;

async function load(): Promise<Parser> {
  const { Language, Parser } = await import("web-tree-sitter");
  await Parser.init({ wasmBinary: bytesOf(treeSitterWasm) });
  const parser = new Parser();
  parser.setLanguage(await Language.load(bytesOf(pythonWasm)));
  return parser;
}

/** In a bundle the path is relative to it. */
const bytesOf = (path: string): Uint8Array =>
  new Uint8Array(readFileSync(isAbsolute(path) ? path : fileURLToPath(new URL(path, import.meta.url))));

/** Deeper nesting than any code has; it would exhaust the stack. */
const deepest = 2000;

/**
 * The syntax tree of a file.
 *
 * @param file for messages
 * @throws {EfError} NOT_PACKABLE with the place and the line, where it is no Python
 */
export async function parsePython(bytes: Uint8Array, file: string): Promise<Node> {
  const text = decoded(bytes, file);
  ready ??= load();
  const tree = (await ready).parse(text);
  if (!tree) throw new EfError("NOT_PACKABLE", `Cannot parse ${file}`, { path: file });
  const { rootNode } = tree;
  const wrong = rootNode.hasError ? firstError(rootNode) : oldPython(rootNode);
  if (!wrong) {
    assertIndentation(text, rootNode, file);
    return rootNode;
  }
  throw syntaxError(file, text, wrong.node.startPosition, wrong.why);
}

function syntaxError(file: string, text: string, at: { row: number; column: number }, why: string): EfError {
  const line = (text.split("\n")[at.row] ?? "").replace(/\r$/, "").slice(0, 200);
  const marked = `\n    ${line.replaceAll("\t", " ")}\n    ${" ".repeat(Math.min(at.column, 200))}^`;
  return new EfError("NOT_PACKABLE", `Cannot pack ${file}:${at.row + 1}:${at.column + 1}: ${why}${marked}`, {
    path: file,
  });
}

/** The first place that is no Python: an error, or something that is missing. */
function firstError(root: Node): { node: Node; why: string } | undefined {
  const cursor = root.walk();
  for (let depth = 0; ; ) {
    const { currentNode: node } = cursor;
    if (node.isError) return { node, why: "this is no Python" };
    if (node.isMissing) return { node, why: `${node.type} is missing` };
    if (depth > deepest) return { node, why: "nested too deep" };
    if (node.hasError && cursor.gotoFirstChild()) depth++;
    else {
      while (!cursor.gotoNextSibling()) {
        if (!cursor.gotoParent()) return undefined;
        depth--;
      }
    }
  }
}

/** Statements that only Python 2 has, which the grammar knows too. */
function oldPython(root: Node): { node: Node; why: string } | undefined {
  const [node] = root.descendantsOfType(["print_statement", "exec_statement"]);
  return node ? { node, why: "this is Python 2; Python 3 is needed" } : undefined;
}

/** A block begins where its first statement does; the grammar lets later ones stand further in. */
function assertIndentation(text: string, root: Node, file: string): void {
  const lines = text.split("\n");
  for (const block of [root, ...root.descendantsOfType("block")]) {
    const statements = block?.namedChildren.filter((each) => each && each.type !== "comment") ?? [];
    const [first] = statements;
    let row = first?.startPosition.row ?? 0;
    for (const each of statements) {
      const at = each?.startPosition;
      if (!first || !at || at.row === row) continue; // several on one line
      row = at.row;
      if (at.column !== first.startPosition.column && isLineStart(lines, each as Node))
        throw syntaxError(file, text, at, "this line is indented otherwise than those beside it");
    }
  }
}

const isLineStart = (lines: readonly string[], { startPosition: { row, column } }: Node): boolean =>
  (lines[row] ?? "").slice(0, column).trim() === "";

/** PEP 263: in one of the first two lines. */
const cookie = /^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)/;

function decoded(bytes: Uint8Array, file: string): string {
  const latin1 = Buffer.from(bytes).toString("latin1");
  if (latin1.includes("\0"))
    throw new EfError("NOT_PACKABLE", `Cannot pack ${file}: it holds NUL bytes, and is no Python`, { path: file });
  const lines = latin1.split("\n", 2);
  const named = lines.map((line) => cookie.exec(line)?.[1]).find((each) => each !== undefined);
  const encoding =
    bytes[0] === 0xef && bytes[1] === 0xbb ? "utf-8" : (named ?? "utf-8").toLowerCase().replaceAll("_", "-");
  try {
    return new TextDecoder((/^(?:iso-)?(?:8859-1|latin-?1)$/.test(encoding) ? "latin1" : encoding) as "latin1", {
      fatal: true,
    }).decode(bytes);
  } catch (cause) {
    const line = encoding === "utf-8" ? brokenLine(bytes) : undefined;
    const why = cause instanceof RangeError ? `its encoding ${encoding} is not known` : `it is not ${encoding}`;
    throw new EfError("NOT_PACKABLE", `Cannot pack ${file}${line === undefined ? "" : `:${line}`}: ${why}`, {
      hint: "save it as UTF-8, or name its encoding in the first line: # -*- coding: latin-1 -*-",
      path: file,
      cause,
    });
  }
}

function brokenLine(bytes: Uint8Array): number {
  const again = Buffer.from(Buffer.from(bytes).toString("utf8"));
  const at = bytes.findIndex((byte, i) => byte !== again[i]);
  return Buffer.from(bytes.subarray(0, at)).toString("latin1").split("\n").length;
}
