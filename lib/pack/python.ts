/**
 * What a Python function needs, found by reading its code: modules of the project, data files, outside packages.
 *
 * Whole files are taken, from the file of the function along its imports; what is imported in a function or a condition counts too, as
 * nobody knows what will run. Where only running the code would tell, there is a warning with its line, and a guess is never made.
 */
import { readFileSync, statSync } from "node:fs";
import { basename, dirname, relative } from "node:path";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { isWithin } from "../base/paths.ts";
import type { Analysis, AnalysisRequest } from "./analysis.ts";
import { isClusterCall, wantedBy } from "./data-calls.ts";
import { type Distribution, type Installed, installedIn, withRequirements } from "./distributions.ts";
import { assertFunction, checkArguments, definitionAt, functionsOf, localFunctions } from "./functions.ts";
import { Gathering, shorten } from "./gathering.ts";
import { Modules, placeOf } from "./modules.ts";
import type { PackageImport } from "./package.ts";
import { parsePython } from "./parser.ts";
import { type Facts, factsOf, type Import } from "./python-facts.ts";
import { argumentsOf, calledName, calledObject, literalValue, type ValueContext } from "./python-values.ts";
import { isLoadedFirst, isStandard } from "./stdlib.ts";

/** A file of the project that was read. */
export interface ReadModule {
  name: string;
  file: string;
  isPackage: boolean;
  facts: Facts;
}

/**
 * @throws {EfError} NOT_PACKABLE for code that does not parse, no such function, names that collide; USAGE for a file or directory
 *   that is not there
 */
export async function analysePython(request: AnalysisRequest): Promise<Analysis> {
  assertPythonFile(request.file);
  return new Analyser(request).run();
}

/** What could be packed of a Python file. @throws {EfError} NOT_PACKABLE, USAGE */
export async function functionsIn(file: string): Promise<string[]> {
  assertPythonFile(file);
  return functionsOf({ facts: factsOf(await parsePython(readCode(file), file)) });
}

class Analyser {
  readonly #root: string;
  readonly #modules: Modules;
  readonly #installed: Installed | undefined;
  readonly #read = new Map<string, ReadModule>();
  readonly #todo: { name: string; file: string }[] = [];
  readonly #imports: PackageImport[] = [];
  readonly #direct = new Set<Distribution>();
  readonly #loose = new Set<string>();
  readonly #clusterCalls: { function: string; file: string; lineno: number }[] = [];
  readonly #got: Gathering;
  readonly #main: { root: string; module: string };

  constructor(readonly request: AnalysisRequest) {
    const { file, cwd, paths, venv } = request;
    this.#main = placeOf(file);
    this.#root = request.root ?? (isWithin(file, cwd) && isWithin(this.#main.root, cwd) ? cwd : this.#main.root);
    if (!isWithin(this.#main.root, this.#root))
      throw new EfError(
        "USAGE",
        `Cannot pack ${file}: the code of its package begins in ${this.#main.root}, outside of ${this.#root}`,
        {
          hint: `name a directory that holds it: --root ${this.#main.root}`,
          path: file,
        },
      );
    this.#installed = venv === undefined ? undefined : installedIn(venv);
    this.#modules = new Modules([...new Set([this.#main.root, ...paths, ...(this.#installed?.editable ?? [])])]);
    this.#got = new Gathering(this.#root, this.#modules.roots, cwd);
  }

  async run(): Promise<Analysis> {
    const { file, functionName } = this.request;
    this.#need(this.#main.module, file);
    await this.#readAll();
    const main = this.#read.get(file) as ReadModule;
    const lookUp = (name: string) => this.#moduleAt(name);
    assertFunction(main, functionName, lookUp, isStandard);
    const definition = definitionAt(main, functionName);
    const { arguments: given } = this.request;
    if (given) checkArguments(definition, functionName, given.args, given.kwargs);
    for (const name of this.#installed?.unknownEditable ?? [])
      this.#got.warn(file, 1, `what ${name} makes importable only Python can tell: give its directory with --path`);
    const relativeTo = this.#got.archivePath(file);
    const dataFiles = [...this.#got.files.values()].filter(({ why }) => why === "data");
    const packages = this.#packages();
    const modules = [...this.#read.values()].filter((each) => each.file !== file);
    return {
      kind: "python",
      functionInfo: {
        name: functionName,
        module: this.#main.module,
        file: relativeTo,
        lineno: definition?.lineno ?? 1,
        is_async: definition?.isAsync ?? false,
      },
      dependencies: {
        requires_dependencies: modules.length + dataFiles.length + packages.length > 0,
        requires_cluster_filesystem: this.#clusterCalls.length > 0,
        imports: this.#imports.sort(inPlaces),
        local_modules: modules
          .map(({ name, file: path }) => ({ module: name, path: this.#got.archivePath(path) }))
          .sort((a, b) => order(a.path, b.path)),
        local_functions: localFunctions(main, functionName, lookUp).map(({ module, name, lineno }) => ({
          name,
          file: this.#got.archivePath(module.file),
          lineno,
        })),
        data_files: dataFiles
          .map(({ path, source }) => ({ path, size_bytes: statSync(source).size }))
          .sort((a, b) => order(a.path, b.path)),
        packages,
        filesystem_calls: this.#clusterCalls.sort(inPlaces),
      },
      pythonVersion: this.#installed?.python ?? null,
      importPaths: this.#importPaths(),
      workingDirectory: this.#workingDirectory(),
      files: [...this.#got.files.values()].sort((a, b) => order(a.path, b.path)),
      warnings: [...this.#got.warnings.values()].sort(inPlaces),
    };
  }

  #need(name: string, file: string): void {
    if (this.#read.has(file) || this.#todo.some((each) => each.file === file)) return;
    this.#todo.push({ name, file });
  }

  async #readAll(): Promise<void> {
    for (let next = this.#todo.shift(); next; next = this.#todo.shift()) {
      const { name, file } = next;
      this.#got.add(file, "code");
      const facts = factsOf(await parsePython(readCode(file), this.#got.shown(file)));
      const module: ReadModule = { name, file, isPackage: basename(file) === "__init__.py", facts };
      this.#read.set(file, module);
      // The packages around it are imported first.
      for (let at = name.lastIndexOf("."); at > 0; at = name.lastIndexOf(".", at - 1)) this.#local(name.slice(0, at));
      for (const each of facts.imports) this.#import(module, each);
      for (const { call, scope } of facts.calls) this.#call(module, call, this.#context(module, scope));
    }
  }

  /** A module of the project, and what is above it; undefined if it is none. */
  #local(name: string): "local" | undefined {
    const found = this.#modules.find(name);
    if (!found) return undefined;
    const parent = name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : undefined;
    if (parent !== undefined) this.#local(parent);
    if (found.kind === "namespace") return "local";
    if (found.kind === "extension") {
      this.#got.add(found.file, "code");
      this.#got.warn(
        found.file,
        1,
        "compiled for machines like this one: it must fit the cluster's Python and processors",
      );
    } else this.#need(name, found.file);
    return "local";
  }

  #import(module: ReadModule, each: Import): void {
    const shown = `${".".repeat(each.level)}${each.module}`;
    const note = (kind: PackageImport["kind"]) =>
      this.#imports.push({
        ...{ module: shown, names: each.names.map(({ name }) => name), alias: each.alias, is_from_import: each.isFrom },
        ...{ file: this.#got.archivePath(module.file), lineno: each.lineno, kind },
      });
    const base = absoluteName(module, each);
    if (base === undefined) {
      this.#got.warn(module.file, each.lineno, `the relative import ${shown} leaves its package: Python refuses it`);
      return void note("missing");
    }
    const kind = this.#kindOf(base, module, each);
    note(kind);
    if (kind !== "local") return;
    for (const { name } of each.names) if (name !== "*") this.#local(`${base}.${name}`);
    if (each.names.some(({ name }) => name === "*")) this.#starOf(base);
  }

  /** `from package import *` imports the submodules that its `__all__` names. */
  #starOf(base: string): void {
    const found = this.#modules.find(base);
    if (found?.kind !== "package") return;
    const text = readCode(found.file).toString("latin1");
    for (const [, name = ""] of text.matchAll(/['"](\w+)['"]/g))
      if (/__all__/.test(text)) this.#local(`${base}.${name}`);
  }

  #kindOf(name: string, module: ReadModule, each: Import): PackageImport["kind"] {
    const top = name.split(".")[0] ?? "";
    const first = this.#modules.find(top);
    if (first && isLoadedFirst(top) && each.level === 0) {
      this.#got.warn(module.file, each.lineno, `Python takes its own ${top}, not the one of the project`);
      return "standard";
    }
    if (first && first.kind !== "namespace" && this.#local(name)) return "local";
    if (first && first.kind !== "namespace" && each.level === 0) {
      if (!each.isOptional) this.#got.warn(module.file, each.lineno, `${name} is not in the project's ${top}`);
      this.#local(top);
      return "missing";
    }
    if (isStandard(top)) return "standard";
    const owners = this.#installed?.of(name) ?? [];
    if (owners.length > 0) {
      for (const owner of owners) this.#direct.add(owner);
      if (owners.length > 1)
        this.#got.warn(
          module.file,
          each.lineno,
          `${name} belongs to several packages: ${owners.map((owner) => owner.name).join(", ")}`,
        );
      return "outside";
    }
    if (this.#local(name)) return "local"; // a namespace
    if (top.startsWith("_")) return "standard";
    if (this.#installed === undefined) {
      this.#loose.add(top);
      return "outside";
    }
    if (!each.isOptional)
      this.#got.warn(module.file, each.lineno, `${name} is neither in the project nor installed in the environment`);
    return "missing";
  }

  #context(module: ReadModule, scope: Parameters<Facts["constants"]>[0]): ValueContext {
    const packageName = module.isPackage
      ? module.name
      : module.name.slice(0, Math.max(0, module.name.lastIndexOf(".")));
    return {
      file: module.file,
      cwd: this.request.cwd,
      constants: (name) => module.facts.constants(scope, name),
      packageDir: (name) => {
        const found = this.#modules.find(name);
        if (found?.kind === "package") return found.dir;
        return found?.kind === "namespace" ? found.dirs[0] : found?.kind === "module" ? dirname(found.file) : undefined;
      },
      packageName,
      moduleName: module.name,
    };
  }

  #call(module: ReadModule, call: Parameters<typeof wantedBy>[0], cx: ValueContext): void {
    const name = calledName(call);
    const lineno = call.startPosition.row + 1;
    if (isClusterCall(name))
      this.#clusterCalls.push({ function: name, file: this.#got.archivePath(module.file), lineno });
    if (name === "import_module" || name === "__import__") {
      this.#dynamicImport(module, call, cx);
      return;
    }
    if (["append", "insert", "extend"].includes(name) && calledObject(call)?.text === "sys.path")
      this.#got.warn(
        module.file,
        lineno,
        "it changes sys.path: what that makes importable is packed only from directories given with --path",
      );
    if (["exec", "eval"].includes(name) && calledObject(call) === null)
      this.#got.warn(module.file, lineno, `${name} runs code that only running it would tell`);
    for (const wanted of wantedBy(call, cx)) this.#got.want(module.file, wanted);
  }

  #dynamicImport(module: ReadModule, call: Parameters<typeof wantedBy>[0], cx: ValueContext): void {
    const { places, named } = argumentsOf(call);
    const text = literalValue(places[0] ?? named.get("name"), cx);
    const lineno = call.startPosition.row + 1;
    if (text === undefined || !/^\.*[\w.]*\w$/.test(text)) {
      this.#got.warn(
        module.file,
        lineno,
        `only running it would tell what is imported here: ${shorten(call.text)}; pack it with --data DIR`,
      );
      return;
    }
    const level = /^\.*/.exec(text)?.[0].length ?? 0;
    const anchor = literalValue(places[1] ?? named.get("package"), cx);
    const within = level > 0 && anchor !== undefined ? { ...module, name: anchor, isPackage: true } : module;
    this.#import(within, {
      module: text.slice(level),
      level,
      names: [],
      alias: null,
      isFrom: false,
      lineno,
      isOptional: false,
    });
  }

  /** Those that have something in the archive. */
  #importPaths(): string[] {
    const all = this.#modules.roots.map((root, i) =>
      isWithin(root, this.#root) ? ["files", relative(this.#root, root)].filter(Boolean).join("/") : `paths/${i}`,
    );
    return [...new Set(all)].filter(
      (path, i) => i === 0 || [...this.#got.files.keys()].some((file) => file.startsWith(`${path}/`)),
    );
  }

  #workingDirectory(): string {
    const { cwd } = this.request;
    return isWithin(cwd, this.#root) ? ["files", relative(this.#root, cwd)].filter(Boolean).join("/") : "files";
  }

  #packages(): Analysis["dependencies"]["packages"] {
    if (!this.#installed) {
      if (this.#loose.size > 0)
        this.#got.warn(
          this.request.file,
          1,
          `not pinned, as no environment was given (--pins DIR): ${[...this.#loose].sort().join(", ")}`,
        );
      return [...this.#loose].sort().map((name) => ({ name, version: null }));
    }
    return withRequirements(this.#direct, this.#installed).map(({ name, version, url }) => {
      if (url !== undefined)
        this.#got.warn(
          this.request.file,
          1,
          `${name} was installed from ${url}: it is pinned to ${version} of the index`,
        );
      return { name, version };
    });
  }

  #moduleAt(name: string): ReadModule | undefined {
    const found = this.#modules.find(name);
    return found && "file" in found ? this.#read.get(found.file) : undefined;
  }
}

/** `..x` in `a.b.c` is `a.x`; undefined where it leaves the topmost package. */
function absoluteName(
  { name, isPackage }: Pick<ReadModule, "name" | "isPackage">,
  { module, level }: Import,
): string | undefined {
  if (level === 0) return module;
  const parts = name.split(".");
  const up = level - (isPackage ? 1 : 0);
  if (up > parts.length - (isPackage ? 1 : 0) || (up >= parts.length && !isPackage)) return undefined;
  const base = parts.slice(0, parts.length - up);
  if (base.length === 0) return undefined;
  return [...base, ...(module === "" ? [] : [module])].join(".");
}

function assertPythonFile(file: string): void {
  const bad = (why: string, hint?: string) => new EfError("USAGE", `Cannot pack ${file}: ${why}`, { path: file, hint });
  let isFile: boolean;
  try {
    isFile = statSync(file).isFile();
  } catch (error) {
    throw bad(errnoOf(error) === "ENOENT" ? "there is no such file" : reasonOf(error));
  }
  if (file.endsWith(".ipynb"))
    throw bad("it is a notebook", "make a script of it: jupyter nbconvert --to script FILE.ipynb");
  if (!isFile) throw bad("it is no regular file");
}

function readCode(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new EfError("IO", `Cannot read ${file}: ${reasonOf(cause)}`, { path: file, cause });
  }
}

const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
const inPlaces = (a: { file: string; lineno: number }, b: { file: string; lineno: number }): number =>
  order(a.file, b.file) || a.lineno - b.lineno;
