/** Texts and paths that can be told without running anything: literals, constants, `Path(__file__).parent / "data"`, `os.path.join(…)`. */
import { basename, dirname, isAbsolute, join } from "node:path";
import type { Node } from "./parser.ts";

/** What a name stands for: its only assignment, of the function or the module that it is used in. */
export type Constants = (name: string) => Node | undefined;

export interface ValueContext {
  /** Of the module, absolute: `__file__`. */
  file: string;
  /** Where the code runs, absolute: `Path.cwd()`. */
  cwd: string;
  constants: Constants;
  /** The directory of a package, for `importlib.resources.files`; undefined if it is not of the project. */
  packageDir: (name: string) => string | undefined;
  /** Of the module: `__package__`, `__name__`. */
  packageName: string;
  moduleName: string;
}

/** Constants of constants, and so on. */
const deepest = 40;

/** The text or path of an expression; undefined if only running it would tell. */
export function literalValue(node: Node | null | undefined, cx: ValueContext, depth = 0): string | undefined {
  if (!node || depth > deepest) return undefined;
  const of = (each: Node | null | undefined) => literalValue(each, cx, depth + 1);
  switch (node.type) {
    case "string":
      return stringOf(node, of);
    case "concatenated_string":
      return joined(node.namedChildren.map(of));
    case "parenthesized_expression":
      return of(node.namedChildren[0]);
    case "identifier":
      return nameValue(node.text, cx, of);
    case "binary_operator":
      return binaryValue(node, of);
    case "attribute":
      return attributeValue(node, of);
    case "subscript":
      return subscriptValue(node, of);
    case "call":
      return callValue(node, cx, of);
    default:
      return undefined;
  }
}

type Of = (node: Node | null | undefined) => string | undefined;

const joined = (parts: readonly (string | undefined)[]): string | undefined =>
  parts.some((part) => part === undefined) ? undefined : parts.join("");

function stringOf(node: Node, of: Of): string | undefined {
  const prefix = (node.firstChild?.text ?? "").replace(/["']+$/, "").toLowerCase();
  if (prefix.includes("b")) return undefined;
  const parts = node.namedChildren.map((child) => {
    if (child?.type === "string_content") return prefix.includes("r") ? child.text : unescaped(child.text);
    if (child?.type === "interpolation")
      return child.childForFieldName("format_specifier") ? undefined : of(child.childForFieldName("expression"));
    return child?.type === "string_start" || child?.type === "string_end" ? "" : undefined;
  });
  return joined(parts);
}

/** @see https://docs.python.org/3/reference/lexical_analysis.html#escape-sequences */
const escapes: Record<string, string> = {
  n: "\n",
  t: "\t",
  r: "\r",
  "\\": "\\",
  "'": "'",
  '"': '"',
  "\n": "",
  a: "\x07",
  b: "\b",
  f: "\f",
  v: "\v",
};

const unescaped = (text: string): string =>
  text.replace(
    /\\(?:([\\'"abfnrtv\n])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3}))/g,
    (_, one, x, u, U, octal) =>
      one !== undefined
        ? (escapes[one] as string)
        : String.fromCodePoint(octal ? Number.parseInt(octal, 8) : Number.parseInt(x ?? u ?? U, 16)),
  );

function nameValue(name: string, cx: ValueContext, of: Of): string | undefined {
  if (name === "__file__") return cx.file;
  if (name === "__package__") return cx.packageName;
  if (name === "__name__") return cx.moduleName;
  return of(cx.constants(name));
}

function binaryValue(node: Node, of: Of): string | undefined {
  const operator = node.childForFieldName("operator")?.text;
  const [left, right] = [of(node.childForFieldName("left")), of(node.childForFieldName("right"))];
  if (left === undefined || right === undefined) return undefined;
  if (operator === "+") return left + right;
  return operator === "/" ? pathJoin(left, right) : undefined;
}

/** As os.path.join and `/` of pathlib: an absolute part begins anew. */
const pathJoin = (...parts: string[]): string =>
  parts.reduce((path, part) => (isAbsolute(part) || path === "" ? part : join(path, part)));

function attributeValue(node: Node, of: Of): string | undefined {
  const name = node.childForFieldName("attribute")?.text;
  const object = node.childForFieldName("object");
  if (name === "parent") {
    const path = of(object);
    return path === undefined ? undefined : dirname(path);
  }
  return undefined;
}

/** `Path(__file__).parents[1]` */
function subscriptValue(node: Node, of: Of): string | undefined {
  const value = node.childForFieldName("value");
  const index = node.childForFieldName("subscript")?.text ?? "";
  if (
    value?.type !== "attribute" ||
    value.childForFieldName("attribute")?.text !== "parents" ||
    !/^\d{1,2}$/.test(index)
  )
    return undefined;
  let path = of(value.childForFieldName("object"));
  for (let i = 0; i <= Number(index) && path !== undefined; i++) path = dirname(path);
  return path;
}

/** Functions that leave a path as it is, as far as files are concerned. */
const same = new Set([
  "str",
  "fspath",
  "abspath",
  "realpath",
  "normpath",
  "expanduser",
  "resolve",
  "absolute",
  "as_posix",
  "expandvars",
]);

/** The last name of what is called: `join` of `os.path.join`. */
export const calledName = (call: Node): string => {
  const called = call.childForFieldName("function");
  return (called?.type === "attribute" ? called.childForFieldName("attribute")?.text : called?.text) ?? "";
};

/** What stands before the last name. */
export const calledObject = (call: Node): Node | null => {
  const called = call.childForFieldName("function");
  return called?.type === "attribute" ? called.childForFieldName("object") : null;
};

/** Arguments by their place; those by name. */
export function argumentsOf(call: Node): { places: Node[]; named: Map<string, Node> } {
  const places: Node[] = [];
  const named = new Map<string, Node>();
  for (const child of call.childForFieldName("arguments")?.namedChildren ?? []) {
    if (!child || child.type === "comment") continue;
    const name = child.type === "keyword_argument" ? child.childForFieldName("name")?.text : undefined;
    const value = name === undefined ? child : child.childForFieldName("value");
    if (name !== undefined && value) named.set(name, value);
    else places.push(child);
  }
  return { places, named };
}

function callValue(node: Node, cx: ValueContext, of: Of): string | undefined {
  const name = calledName(node);
  const object = calledObject(node);
  const { places } = argumentsOf(node);
  const values = () => places.map(of);
  const all = (parts: readonly (string | undefined)[]) =>
    parts.some((part) => part === undefined) || parts.length === 0 ? undefined : pathJoin(...(parts as string[]));
  switch (name) {
    case "Path":
    case "PurePath":
    case "PosixPath":
      return places.length === 0 ? "." : all(values());
    case "join":
      return object?.text.endsWith("path") ? all(values()) : undefined;
    case "joinpath":
      return all([of(object), ...values()]);
    case "dirname": {
      const path = of(places[0]);
      return path === undefined ? undefined : dirname(path);
    }
    case "basename":
      return basenameOf(of(places[0]));
    case "cwd":
    case "getcwd":
      return cx.cwd;
    case "with_name": {
      const [path, other] = [of(object), of(places[0])];
      return path === undefined || other === undefined ? undefined : join(dirname(path), other);
    }
    case "with_suffix": {
      const [path, suffix] = [of(object), of(places[0])];
      return path === undefined || suffix === undefined ? undefined : path.replace(/(?:\.[^./]*)?$/, suffix);
    }
    case "files": {
      const package_ = places.length === 0 ? cx.packageName : (of(places[0]) ?? moduleNameOf(places[0]));
      return package_ === undefined ? undefined : cx.packageDir(package_);
    }
    default: {
      if (!same.has(name)) return undefined;
      // os.path.abspath(x), str(x); or Path(x).resolve().
      return places.length > 0 ? of(places[0]) : of(object);
    }
  }
}

const basenameOf = (path: string | undefined) => (path === undefined ? undefined : basename(path));

/** `files(pkg)`, where `pkg` was imported. */
const moduleNameOf = (node: Node | undefined): string | undefined =>
  node && /^[\w.]+$/.test(node.text) ? node.text : undefined;
