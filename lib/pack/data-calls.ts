/** Which calls of Python code read files, and what they name. */
import type { Node } from "./parser.ts";
import { argumentsOf, calledName, calledObject, literalValue, type ValueContext } from "./python-values.ts";

/** What a call needs to be there. */
export type Wanted =
  /** A file, or a directory with all that is in it. */
  | { kind: "path"; path: string; lineno: number; mustExist: boolean }
  /** What matches a pattern below a directory. */
  | { kind: "glob"; dir: string; pattern: string; lineno: number }
  /** All data of a package. */
  | { kind: "package"; dir: string; lineno: number }
  /** Only running it would tell. */
  | { kind: "unknown"; text: string; lineno: number };

/** Take the name of a file that they read as their first argument. */
const readers = new Set([
  ...[
    "read_csv",
    "read_table",
    "read_fwf",
    "read_parquet",
    "read_excel",
    "read_json",
    "read_pickle",
    "read_feather",
    "read_hdf",
    "read_orc",
  ],
  ...[
    "read_stata",
    "read_sas",
    "read_spss",
    "read_xml",
    "scan_csv",
    "scan_parquet",
    "loadtxt",
    "genfromtxt",
    "fromfile",
    "memmap",
  ],
  ...[
    "imread",
    "imageio",
    "open_dataset",
    "open_mfdataset",
    "open_dataarray",
    "loadmat",
    "read_file",
    "read_image",
    "read_text",
  ],
  ...["read_bytes", "ZipFile", "load_workbook", "load_model", "load_npz", "open_zarr", "is_zipfile"],
]);
/** The same, and other things too: they count where they name a file that is there, and are not wondered at else. */
const perhaps = new Set([
  "load",
  "read",
  "connect",
  "File",
  "Dataset",
  "from_file",
  "from_json_file",
  "run_path",
  "Image",
]);
const listers = new Set(["listdir", "scandir", "walk", "iterdir"]);
const globs = new Set(["glob", "iglob", "rglob"]);
/** `(package, name)`, of importlib.resources, pkgutil and pkg_resources. */
const ofPackage = new Set([
  ...["open_text", "open_binary", "read_binary", "contents", "get_data", "is_resource"],
  ...["resource_filename", "resource_string", "resource_stream", "resource_exists"],
]);

/** @param packageDirOf also of modules: the package that a resource is named of */
export function wantedBy(call: Node, cx: ValueContext): Wanted[] {
  const name = calledName(call);
  const lineno = call.startPosition.row + 1;
  const { places, named } = argumentsOf(call);
  const [first] = places;
  const object = calledObject(call);
  const value = (node: Node | null | undefined) => literalValue(node, cx);
  const path = (text: string, mustExist = true): Wanted => ({ kind: "path", path: text, lineno, mustExist });

  if (name === "files" && isResources(call)) return [resources(call, cx, lineno)].flatMap((each) => each ?? []);
  if (ofPackage.has(name) || (["path", "read_text"].includes(name) && places.length === 2 && object !== null)) {
    const dir = cx.packageDir(value(first) ?? (first?.text.match(/^[\w.]+$/) ? first.text : ""));
    const inner = value(places[1]);
    if (dir === undefined) return [];
    return [inner === undefined ? { kind: "package", dir, lineno } : path(`${dir}/${inner}`)];
  }
  if (name === "open") return opened(call, cx, lineno);
  if (globs.has(name)) {
    const pattern = value(first);
    const base = object && !["glob", "os"].includes(object.text) ? value(object) : "";
    if (pattern === undefined || base === undefined)
      return first || object ? [{ kind: "unknown", text: call.text, lineno }] : [];
    return [{ kind: "glob", dir: base, pattern: name === "rglob" ? `**/${pattern}` : pattern, lineno }];
  }
  if (listers.has(name)) {
    const dir = value(first ?? (name === "iterdir" ? object : undefined));
    return dir === undefined ? [] : [path(dir)];
  }
  if (["read_text", "read_bytes"].includes(name) && object && places.length === 0) {
    const text = value(object);
    return [text === undefined ? { kind: "unknown", text: call.text, lineno } : path(text)];
  }
  if (readers.has(name) || perhaps.has(name)) {
    const argument =
      first ??
      [...named].find(([key]) =>
        /^(?:file|fname|path|filename|filepath\w*|filepath_or_buffer|database)$/.test(key),
      )?.[1];
    const text = value(argument);
    if (text !== undefined && !/^\w+:\/\//.test(text) && text !== ":memory:") return [path(text, readers.has(name))];
    return readers.has(name) && argument && text === undefined ? [{ kind: "unknown", text: call.text, lineno }] : [];
  }
  return [];
}

/** `open(name, mode)`, also of gzip, io and paths: what is written is not packed. */
function opened(call: Node, cx: ValueContext, lineno: number): Wanted[] {
  const { places, named } = argumentsOf(call);
  const object = calledObject(call);
  const ofPath =
    object &&
    !/^(?:io|gzip|bz2|lzma|codecs|tarfile|wave|Image|PIL\.Image|zipfile|h5py|rasterio|fitz|aiofiles|smart_open|fsspec|dbm|shelve|os)$/.test(
      object.text,
    );
  const target = ofPath ? object : (places[0] ?? named.get("file") ?? named.get("name") ?? named.get("filename"));
  const mode = literalValue(places[ofPath ? 0 : 1] ?? named.get("mode"), cx) ?? "r";
  if (/[wx]/.test(mode) || (object?.text === "os" && mode === "r")) return [];
  const text = literalValue(target, cx);
  if (text === undefined) return target ? [{ kind: "unknown", text: call.text, lineno }] : [];
  if (/^\w+:\/\//.test(text)) return [];
  return [{ kind: "path", path: text, lineno, mustExist: !/[a+]/.test(mode) }];
}

const isResources = (call: Node): boolean => {
  const object = calledObject(call);
  return object === null || /resources$/.test(object.text);
};

/** `files("pkg") / "data" / "x.csv"`: the largest expression around it that can be told. */
function resources(call: Node, cx: ValueContext, lineno: number): Wanted | undefined {
  const dir = literalValue(call, cx);
  if (dir === undefined) return undefined;
  let best: string | undefined;
  for (let node: Node | null = call; node; node = node.parent) {
    if (["expression_statement", "assignment", "return_statement", "argument_list", "block"].includes(node.type)) break;
    const text = literalValue(node, cx);
    if (text !== undefined) best = text;
  }
  return best === undefined || best === dir
    ? { kind: "package", dir, lineno }
    : { kind: "path", path: best, lineno, mustExist: true };
}

/** Functions of clustrix that look at the files of a cluster (seed 004). */
const clusterCalls = /^cluster_(?:ls|find|stat|exists|isdir|isfile|glob|du|count_files)$/;

export const isClusterCall = (name: string): boolean => clusterCalls.test(name);
