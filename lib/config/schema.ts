/**
 * `~/.euler-files.json`, version 1: the format of euler-files 1.1, field for field, and ef's own key `"ef"`.
 *
 * One description gives the type, the defaults, the check and (`ef schema --kind config`) the JSON Schema. Objects are
 * loose: what another version wrote stays in the file. Paths are kept as they were written; `plan` expands them.
 *
 * Sections that most files lack are lazy: making their schemas would be a good part of a fresh sync's time.
 */
import * as v from "valibot";

const text = (description: string) => v.pipe(v.string(), v.minLength(1), v.description(description));
const seconds = (description: string) => v.pipe(v.number(), v.minValue(0), v.description(description));
const days = (description: string) => v.pipe(v.number(), v.integer(), v.minValue(1), v.description(description));
const flag = (description: string) => v.pipe(v.boolean(), v.description(description));
const texts = (description: string) => v.pipe(v.array(v.string()), v.description(description));

/** What shells and the loader live on: another value would break the job, not move a cache. */
const reservedNames = [
  ...["PATH", "HOME", "PWD", "IFS", "UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS"],
  ...["LD_PRELOAD", "LD_LIBRARY_PATH"],
];

/** A name that a shell can export; checked here so that export statements need no quoting of names. */
const EnvName = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "not a name that a shell can export: expected [A-Za-z_][A-Za-z0-9_]*"),
  v.maxLength(200, "not a name that ef takes: expected at most 200 characters of [A-Za-z_][A-Za-z0-9_]*"),
  v.check(
    (name) => !reservedNames.includes(name),
    "not a name that ef sets, as the shell or the loader relies on it: expected another name, [A-Za-z_][A-Za-z0-9_]*",
  ),
);

/** Objects, of which valibot takes a list for one, and leaves out names such as `constructor` without a word. */
function onlyObject<S extends v.GenericSchema>(schema: S, isRecord = false): S {
  const checked: v.GenericSchema = {
    ...schema,
    "~run"(dataset, config) {
      const { value } = dataset;
      if (Array.isArray(value)) {
        v._addIssue(checked, "type", dataset, config);
        return dataset as never;
      }
      const names = isRecord && typeof value === "object" && value !== null ? Object.keys(value) : [];
      const done = schema["~run"](dataset, config);
      for (const key of names.filter((name) => name in Object.prototype || name === "prototype")) {
        const path = [{ type: "object", origin: "key", input: value, key, value: undefined }] as never;
        // A context of its own: the schema's would say that the whole is of a wrong type.
        const context = { ...checked, message: `not a name that ef can use: expected ${otherName}` } as never;
        v._addIssue(context, "key", done as never, config, { input: key, path });
        (done as { typed: boolean }).typed = false;
      }
      return done;
    },
  };
  return checked as S;
}

const otherName = "[A-Za-z_][A-Za-z0-9_]*, and none that every JavaScript object has";

const object = <E extends v.ObjectEntries>(entries: E) => onlyObject(v.looseObject(entries));

const recordOf = <K extends v.GenericSchema<string, string>, V extends v.GenericSchema>(key: K, value: V) =>
  onlyObject(v.record(key, value), true);

/** Where a path in the configuration may begin. */
export const pathStart = /^(?:\/|~(?:\/|$)|\$[A-Za-z_]|\$\{\w)/;
export const pathStartText = "expected an absolute path, or one that begins with $VAR or ~";

const Var = object({
  source: v.pipe(
    v.string(),
    v.regex(pathStart, pathStartText),
    v.description("Persistent directory; may contain $VAR, ${VAR} and ~"),
  ),
  enabled: v.optional(flag("Sync it when no --var is given"), true),
});

const image = () =>
  object({
    venv_name: text("Directory of the venv under venv_base"),
    python_version: v.pipe(v.string(), v.description("Python of the venv when it was built, e.g. 3.11.5")),
    sif_filename: text("File name in sif_store"),
    built_at: v.optional(v.pipe(v.number(), v.description("Unix time of the last build, in seconds")), 0),
    enabled: v.optional(flag("Take part in `ef apptainer sync`"), true),
  });

const apptainer = () =>
  object({
    venv_base: v.optional(v.pipe(v.string(), v.description("Directory of the venvs; may contain $VAR and ~")), ""),
    sif_store: v.optional(v.pipe(v.string(), v.description("Persistent directory of the built images")), ""),
    scratch_sif_dir: v.optional(v.pipe(v.string(), v.description("Scratch directory that images are synced to")), ""),
    base_image: v.optional(
      v.pipe(v.string(), v.description("Base image; {version} is the venv's Python major.minor")),
      "python:{version}-slim",
    ),
    container_venv_path: v.optional(text("Path of the venv inside the container"), "/opt/venv"),
    build_args: v.optional(texts("Extra arguments of `apptainer build`"), () => ["--fakeroot"]),
    images: v.optional(recordOf(v.string(), image()), {}),
  });

/** Compressors of mksquashfs(1). */
export const compressors = ["gzip", "zstd", "lz4", "lzo", "xz"] as const;

const migration = () =>
  object({
    old_path: v.string(),
    new_path: v.string(),
    migrated_at: v.pipe(v.number(), v.description("Unix time in seconds")),
    field_name: v.pipe(v.string(), v.description("What was changed: source, venv_base, sif_store …")),
    var_name: v.optional(v.string(), ""),
  });

const efVar = () =>
  object({
    exclude: v.optional(texts("rsync patterns of what is never copied, besides the preset's")),
    mirror: v.optional(flag("Delete on scratch what the source deleted and ef had put there")),
    node_local: v.optional(flag("In a job, copy it to the node's own disk")),
    env: v.optional(
      v.pipe(recordOf(EnvName, v.string()), v.description("Variables exported beside it, e.g. HF_HUB_OFFLINE")),
    ),
  });

const transfer = () =>
  object({
    engine: v.optional(v.pipe(v.picklist(["auto", "builtin", "rsync"]), v.description("What copies"))),
    workers: v.optional(
      v.union(
        [v.literal("auto"), v.pipe(v.number(), v.integer(), v.minValue(1))],
        'expected "auto" or a whole number from 1',
      ),
    ),
    bwlimit: v.optional(
      v.pipe(
        v.string(),
        v.regex(/^\d+(\.\d+)?[KMGTkmgt]?$/, "not a rate such as 200M"),
        v.description("Bytes per second; K, M, G are powers of 1024"),
      ),
    ),
    verify: v.optional(v.pipe(v.picklist(["size", "checksum"]), v.description("How a copy is checked"))),
    times: v.optional(v.pipe(v.picklist(["source", "arrival"]), v.description("Modification times on scratch"))),
    xattrs: v.optional(flag("Copy extended attributes and ACLs too")),
  });

const building = () =>
  object({
    tmpdir: v.optional(text("Where images are put together, on this node's own disk; may contain $VAR and ~")),
    cachedir: v.optional(text("What Apptainer keeps of base images (APPTAINER_CACHEDIR); may contain $VAR and ~")),
    compressor: v.optional(v.pipe(v.picklist(compressors), v.description("Of images; Apptainer's own choice is gzip"))),
    processors: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.description("Of a build, at most"))),
    compile: v.optional(flag("Put byte code of all modules into images")),
    images: v.optional(recordOf(v.string(), imageExtension())),
  });

const imageExtension = () =>
  object({ packages_sha256: v.optional(v.pipe(v.string(), v.description("Of the list of packages it was built of"))) });

const workspace = () =>
  object({
    days: v.optional(days("How long `ws:NAME` lasts when it is made, or extended")),
    filesystem: v.optional(text("File system of the workspace, one of `ws_list -l`")),
    extend: v.optional(flag("Extend it when it expires soon and a sync runs; needs days")),
    warn_days: v.optional(
      v.pipe(v.number(), v.minValue(0), v.description("Days before its end from which on there is a warning")),
    ),
    reminder: v.optional(days("Days before its end at which the site sends a mail")),
    mail: v.optional(text("To whom")),
    group: v.optional(text("Group that may write there")),
  });

const datamover = () =>
  object({
    dir: v.optional(text("Directory of the site's dt* tools; may contain $VAR and ~")),
    partition: v.optional(text("Partition of the data movers; by default the one with a usual name")),
    account: v.optional(text("Account of transfer jobs")),
    time: v.optional(text("Time limit of transfer jobs, as sbatch --time")),
    srun_args: v.optional(texts("More options of srun and sbatch")),
  });

/** Names of clusters stand on command lines and in file names. */
const ClusterName = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$/, "not a name of a cluster: expected letters, digits and . _ -"),
);

export const clusterTypes = ["local", "ssh", "slurm"] as const;

/** Nothing that ssh would take for an option, or two words. */
const word = (what: string) =>
  v.pipe(v.string(), v.regex(/^[^\s-]\S*$/, `not ${what}: expected one word that does not begin with -`));

/** As a shell and Slurm take it: one line. */
const line = (description: string) =>
  v.pipe(v.string(), v.minLength(1), v.regex(/^[^\n\0]*$/, "expected one line"), v.description(description));

const cluster = () =>
  v.pipe(
    object({
      type: v.optional(
        v.pipe(v.picklist(clusterTypes), v.description("local: this machine; ssh: another; slurm: jobs of Slurm")),
        "slurm",
      ),
      host: v.optional(v.pipe(word("a host"), v.description("Login node; left out for slurm: sbatch is called here"))),
      user: v.optional(v.pipe(word("a user"), v.description("There; by default as ~/.ssh/config says"))),
      port: v.optional(
        v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65535), v.description("Of sshd; by default 22")),
      ),
      identity: v.optional(text("Private key of ssh; may contain $VAR and ~")),
      ssh_args: v.optional(texts("More options of ssh")),
      shared: v.optional(flag("work_dir is the same directory here: nothing is shipped")),
      work_dir: v.optional(
        v.pipe(
          line("Directory there for packages and jobs; $VAR and ~ are those of the cluster"),
          v.regex(pathStart, pathStartText),
        ),
      ),
      ef: v.optional(line("The program ef there; by default on PATH, or ~/bin/ef")),
      python: v.optional(line("Python there, without an environment; by default python3")),
      modules: v.optional(v.pipe(v.array(line("A module")), v.description("For module load, in each job"))),
      env: v.optional(v.pipe(recordOf(EnvName, v.string()), v.description("Variables of each job"))),
      partition: v.optional(line("Of Slurm, as the keys below")),
      account: v.optional(line("Account of the jobs")),
      qos: v.optional(line("Quality of service")),
      time: v.optional(line("Time limit, as sbatch --time")),
      nodes: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.description("Nodes of a job"))),
      cpus: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.description("Processors of a task"))),
      gpus: v.optional(line("GPUs of a job, as sbatch --gpus: 2, a100:1")),
      memory: v.optional(line("Memory of a node, as sbatch --mem: 16G")),
      sbatch_args: v.optional(texts("More options of sbatch")),
    }),
    v.forward(
      v.check(({ type, host }) => type !== "ssh" || host !== undefined, "missing: a cluster of type ssh needs a host"),
      ["host"],
    ),
    v.forward(
      v.check(({ type, host }) => type !== "local" || host === undefined, "not for a cluster of type local"),
      ["host"],
    ),
  );

const extension = () =>
  object({
    vars: v.optional(recordOf(EnvName, efVar())),
    transfer: v.optional(transfer()),
    purge: v.optional(
      object({
        days: v.optional(
          v.pipe(v.number(), v.minValue(0), v.description("Age at which the site deletes files on scratch")),
        ),
        rule: v.optional(v.pipe(v.picklist(["mtime", "atime", "ctime", "any"]), v.description("Which time counts"))),
      }),
    ),
    node_local_base: v.optional(
      text("Directory on each node's own disk, for copies that one node has; may contain $VAR and ~"),
    ),
    venv_store: v.optional(text("Persistent directory of saved environments")),
    wheelhouse: v.optional(text("Directory of wheels for nodes without internet")),
    apptainer: v.optional(v.lazy(building)),
    workspace: v.optional(v.lazy(workspace)),
    datamover: v.optional(v.lazy(datamover)),
    clusters: v.optional(v.pipe(recordOf(ClusterName, v.lazy(cluster)), v.description("Where ef submit runs code"))),
  });

export const Config = object({
  version: v.pipe(v.literal(1), v.description("Format of this file")),
  scratch_base: text("Root of the fast storage; may contain $VAR, ${VAR} and ~; ws:NAME is a workspace"),
  cache_root: v.optional(
    v.pipe(
      v.string(),
      v.check((path) => !path.startsWith("/") && !path.split("/").includes(".."), "not a path below scratch_base"),
      v.description("Directory under scratch_base of the copies, markers and locks"),
    ),
    ".cache/euler-files",
  ),
  vars: v.optional(v.pipe(recordOf(EnvName, Var), v.description("Managed environment variables")), {}),
  rsync_extra_args: v.optional(texts("Appended to each rsync call"), () => []),
  parallel_jobs: v.optional(
    v.pipe(v.number(), v.integer(), v.minValue(1), v.description("How many variables are synced at once")),
    4,
  ),
  lock_timeout_seconds: v.optional(seconds("How long to wait for another job's sync of the same variable"), 300),
  skip_if_fresh_seconds: v.optional(seconds("How long a finished sync counts as fresh; 0 never"), 3600),
  apptainer: v.optional(v.nullable(v.lazy(apptainer))),
  migrations: v.optional(v.array(v.lazy(migration)), () => []),
  ef: v.optional(v.lazy(extension)),
});
export type Config = v.InferOutput<typeof Config>;

/** `ef.clusters.NAME`: where code is run. */
export type ClusterConfig = v.InferOutput<ReturnType<typeof cluster>>;

/** A configuration as it stands in the file: any JSON object. */
export type RawConfig = Record<string, unknown>;

/** Each key path of `raw` that no field of version 1 has, e.g. `ef.transfer.enigne`: kept, but perhaps a typing error. */
export function unknownKeys(raw: unknown): string[] {
  const found: string[] = [];
  walk(Config, raw, [], found);
  return found;
}

/** What a valibot schema of this file can be looked into for: the fields of an object, the values of a record. */
export interface AnySchema {
  type: string;
  getter?: () => AnySchema;
  entries?: Record<string, AnySchema>;
  wrapped?: AnySchema;
  value?: AnySchema;
}

/** The schema itself, without what makes it optional, nullable or lazy. */
export function bareSchema(schema: unknown): AnySchema {
  let known = schema as AnySchema;
  for (let inner: AnySchema | undefined = known; inner; inner = known.wrapped ?? known.getter?.()) known = inner;
  return known;
}

function walk(schema: unknown, value: unknown, at: string[], found: string[]): void {
  const known = bareSchema(schema);
  if (typeof value !== "object" || value === null || Array.isArray(value)) return;
  for (const [key, inner] of Object.entries(value)) {
    const entry = Object.hasOwn(known.entries ?? {}, key) ? known.entries?.[key] : undefined;
    const next = known.type === "record" ? known.value : entry;
    if (next) walk(next, inner, [...at, key], found);
    else if (known.entries && Object.keys(known.entries).length > 0 && key !== "$schema")
      found.push([...at, key].join("."));
  }
}
