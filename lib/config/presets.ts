/** A cache that HPC users have: which variable moves it, where it is by default, what is in it. */
export interface Preset {
  /** The environment variable that the tool reads. */
  name: string;
  /** The program or library that reads it, for people. */
  tool: string;
  /** Default directory as the tool's documentation gives it; may contain `$VAR`, `${VAR}` and `~`. */
  dir: string;
  /** What it holds, in one short line (shown in a wizard). */
  holds: string;
  /** The documentation page this was taken from. */
  source: string;
  /** rsync filter patterns (as `--exclude`) of what is never worth copying: locks, partial downloads, logs. */
  exclude?: readonly string[];
  /** Variables that may be set beside it in a job, only when the user's configuration asks. */
  env?: Readonly<Record<string, string>>;
  /** What a user must know before moving it, one line. */
  caution?: string;
}

/** Patterns of a cache that lies in a subdirectory: every pattern that goes in must be anchored. */
const under = (dir: string, patterns: readonly string[]) => patterns.map((pattern) => `${dir}${pattern}`);

// Snapshots hold files of any name, so nothing here may match below `snapshots/`.
const hub = [
  "/.locks/",
  "/*/blobs/*.incomplete",
  "/*/blobs/*.lock", // huggingface_hub before .locks/
  "/*/blobs/.*.shared", // links on their way into the shared blob store
  "/*/trees/*.tmp",
  "/blobs/*/*.lock", // the shared blob store itself: blobs/<xx>/<xet hash>
  "/blobs/*/*.tmp",
  "/blobs/.huggingface-shared-blobs.*.tmp",
];

// A finished dataset is <name>/<config>/<x.y.z>/<hash>/.
const datasets = [
  "/*.lock",
  "/downloads/*.lock",
  "/downloads/*.incomplete",
  "/*/*/*.*.*/*.lock",
  "/*/*/*.*.*/*.incomplete/",
];

// The first group is for a hub cache right in HF_HOME (HF_HUB_CACHE=$HF_HOME).
const huggingface = [
  ...hub,
  ...under("/hub", hub),
  ...under("/datasets", datasets),
  "/xet/logs/",
  "/stored_tokens.lock",
];

const torch = ["/hub/checkpoints/*.partial"];
const pip = ["/http/**.tmp", "/http-v2/**.tmp", "/selfcheck/*.tmp"];
const uv = ["/.lock", "/.tmp*", "/*/.tmp*"];
const wandb = ["/artifacts/tmp/"];

/** What ef knows: first the six of euler-files, then the others, the most common first. */
export const presets: readonly Preset[] = [
  {
    name: "HF_HOME",
    tool: "Hugging Face",
    dir: "~/.cache/huggingface",
    holds: "Hugging Face models, datasets, tokens",
    source: "https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables",
    exclude: huggingface,
    env: { HF_HUB_OFFLINE: "1" },
    caution: "Holds your tokens (token, stored_tokens: mode 0600); blobs, snapshots and refs must stay together.",
  },
  {
    name: "TORCH_HOME",
    tool: "PyTorch",
    dir: "~/.cache/torch",
    holds: "PyTorch Hub models and checkpoints",
    source: "https://docs.pytorch.org/docs/stable/hub.html",
    exclude: torch,
  },
  {
    name: "TRANSFORMERS_CACHE",
    tool: "Transformers",
    dir: "~/.cache/huggingface/transformers",
    holds: "Transformers models (part of HF_HOME)",
    source: "https://huggingface.co/docs/transformers/v4.21.3/en/installation#cache-setup",
    exclude: [...hub, "/*.lock", "/*.incomplete"],
    env: { TRANSFORMERS_OFFLINE: "1" },
    caution: "Deprecated in favour of HF_HOME, and lies inside it: manage one of the two.",
  },
  {
    name: "PIP_CACHE_DIR",
    tool: "pip",
    dir: "~/.cache/pip",
    holds: "pip downloads and locally built wheels",
    source: "https://pip.pypa.io/en/stable/topics/caching/",
    exclude: pip,
  },
  {
    name: "XDG_CACHE_HOME",
    tool: "many programs",
    dir: "~/.cache",
    holds: "Caches of many programs (large)",
    source: "https://specifications.freedesktop.org/basedir-spec/latest/",
    exclude: [
      ...under("/huggingface", huggingface),
      ...under("/torch", torch),
      ...under("/pip", pip),
      ...under("/uv", uv),
      ...under("/wandb", wandb),
    ],
    caution: "Holds most of the other caches, tokens included: manage it or them, not both.",
  },
  {
    name: "CONDA_PKGS_DIRS",
    tool: "conda, mamba",
    dir: "~/.conda/pkgs",
    holds: "conda packages, downloaded and unpacked",
    source: "https://docs.conda.io/projects/conda/en/stable/user-guide/configuration/settings.html",
    exclude: ["/*.partial"],
    env: { CONDA_OFFLINE: "true" },
    caution: "May be a list; environments on another file system get copies instead of hard links.",
  },
  {
    name: "UV_CACHE_DIR",
    tool: "uv",
    dir: "~/.cache/uv",
    holds: "uv downloads, wheels and built packages",
    source: "https://docs.astral.sh/uv/concepts/cache/",
    exclude: uv,
    env: { UV_OFFLINE: "1" },
    caution: "Should be on the file system of the environments: from another one uv copies instead of linking.",
  },
  {
    // $APPTAINER_CACHEDIR/cache is what Apptainer uses, so the default ~/.apptainer/cache belongs to ~/.apptainer.
    name: "APPTAINER_CACHEDIR",
    tool: "Apptainer",
    dir: "~/.apptainer",
    holds: "Container images and layers (in its cache/)",
    source: "https://apptainer.org/docs/user/latest/build_env.html",
    exclude: ["/[!c]*", "/cache/*/tmp_*"],
    caution: "Only its cache/ is copied: keys and logins lie beside it, so do not migrate it. Cannot be shared.",
  },
  {
    name: "TRITON_CACHE_DIR",
    tool: "Triton",
    dir: "~/.triton/cache",
    holds: "Compiled Triton kernels",
    source: "https://github.com/triton-lang/triton/blob/main/python/triton/runtime/cache.py",
    exclude: ["/*/lock", "/*/tmp.pid_*/"],
    caution: "__grp__*.json hold absolute paths: kernels may be read from the old place while it exists.",
  },
  {
    name: "HF_HUB_CACHE",
    tool: "Hugging Face Hub",
    dir: "~/.cache/huggingface/hub",
    holds: "Hugging Face models and dataset files (no tokens)",
    source: "https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables",
    exclude: hub,
    env: { HF_HUB_OFFLINE: "1" },
    caution: "Lies inside HF_HOME: manage one of the two; blobs, snapshots and refs must stay together.",
  },
  {
    name: "HF_DATASETS_CACHE",
    tool: "Hugging Face Datasets",
    dir: "~/.cache/huggingface/datasets",
    holds: "Hugging Face datasets, prepared as Arrow files",
    source: "https://huggingface.co/docs/datasets/cache",
    exclude: datasets,
    env: { HF_DATASETS_OFFLINE: "1" },
    caution: "Lies inside HF_HOME: manage one of the two.",
  },
  {
    name: "VLLM_CACHE_ROOT",
    tool: "vLLM",
    dir: "~/.cache/vllm",
    holds: "vLLM compilation results and assets",
    source: "https://docs.vllm.ai/en/stable/configuration/env_vars/",
  },
  {
    name: "WANDB_CACHE_DIR",
    tool: "Weights & Biases",
    dir: "~/.cache/wandb",
    holds: "W&B artifacts (not the runs)",
    source: "https://docs.wandb.ai/support/models/articles/how-can-i-define-the-local-location-for-",
    exclude: wandb,
  },
  {
    name: "PIXI_CACHE_DIR",
    tool: "pixi",
    dir: "~/.cache/rattler/cache",
    holds: "pixi packages and repository data",
    source: "https://pixi.sh/latest/reference/environment_variables/",
    caution: "Where $XDG_CACHE_HOME/pixi exists, pixi uses that by default.",
  },
  {
    name: "NLTK_DATA",
    tool: "NLTK",
    dir: "~/nltk_data",
    holds: "NLTK corpora and models",
    source: "https://www.nltk.org/data.html",
    exclude: ["/*/*.zip.tmp", "/*/*.zip.lock"],
    caution: "May be a list; NLTK searches ~/nltk_data after it.",
  },
  {
    name: "KERAS_HOME",
    tool: "Keras",
    dir: "~/.keras",
    holds: "Keras datasets and model weights",
    source: "https://keras.io/api/utils/python_utils/",
    caution: "Holds keras.json too: the choice of backend.",
  },
  {
    name: "TFDS_DATA_DIR",
    tool: "TensorFlow Datasets",
    dir: "~/tensorflow_datasets",
    holds: "TensorFlow datasets and their downloads",
    source: "https://www.tensorflow.org/datasets/cli",
    exclude: ["/*/incomplete.??????_*/", "/*/*/incomplete.??????_*/", "/downloads/*.tmp.*/"],
  },
  {
    name: "CUDA_CACHE_PATH",
    tool: "NVIDIA driver",
    dir: "~/.nv/ComputeCache",
    holds: "CUDA kernels compiled from PTX (1 GiB at most)",
    source: "https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html",
  },
  {
    name: "NUMBA_CACHE_DIR",
    tool: "Numba",
    dir: "~/.cache/numba",
    holds: "Compiled Numba functions of read-only sources",
    source: "https://numba.readthedocs.io/en/stable/reference/envvars.html",
    exclude: ["*.nbi.tmp.*", "*.nbc.tmp.*"],
    caution: "By default Numba writes to __pycache__ beside each source, and here only where it cannot.",
  },
  {
    name: "JAX_COMPILATION_CACHE_DIR",
    tool: "JAX",
    dir: "~/.cache/jax",
    holds: "Compiled JAX programs",
    source: "https://docs.jax.dev/en/latest/persistent_compilation_cache.html",
    caution: "JAX has no default directory: it caches only where this points.",
  },
  {
    name: "CUPY_CACHE_DIR",
    tool: "CuPy",
    dir: "~/.cupy/kernel_cache",
    holds: "Compiled CuPy kernels",
    source: "https://docs.cupy.dev/en/stable/reference/environment.html",
  },
  {
    name: "JULIA_DEPOT_PATH",
    tool: "Julia",
    dir: "~/.julia",
    holds: "Julia packages, artifacts, compiled code, environments",
    source: "https://docs.julialang.org/en/v1/manual/environment-variables/",
    env: { JULIA_PKG_OFFLINE: "true" },
    caution: "More than a cache, and a list: without a trailing `:` Julia drops its default depots.",
  },
  {
    name: "RENV_PATHS_ROOT",
    tool: "renv (R)",
    dir: "~/.cache/R/renv",
    holds: "R packages installed by renv",
    source: "https://rstudio.github.io/renv/reference/paths.html",
    caution: "Project libraries are links into it: those that exist keep pointing to the old place.",
  },
  {
    name: "NXF_HOME",
    tool: "Nextflow",
    dir: "~/.nextflow",
    holds: "Nextflow itself, plugins, pipelines (nf-core)",
    source: "https://www.nextflow.io/docs/latest/reference/env-vars.html",
    env: { NXF_OFFLINE: "true" },
    caution: "Holds secrets/store.json (mode 0600). Images are elsewhere: NXF_SINGULARITY_CACHEDIR.",
  },
  {
    name: "OLLAMA_MODELS",
    tool: "Ollama",
    dir: "~/.ollama/models",
    holds: "Ollama models",
    source: "https://github.com/ollama/ollama/blob/main/envconfig/config.go",
    exclude: ["/blobs/*-partial", "/blobs/*-partial-*"],
    caution: "Read by `ollama serve`; blobs and manifests must stay together.",
  },
  {
    name: "KAGGLEHUB_CACHE",
    tool: "kagglehub",
    dir: "~/.cache/kagglehub",
    holds: "Kaggle datasets and models",
    source: "https://github.com/Kaggle/kagglehub#change-the-default-cache-folder",
    exclude: ["/datasets/*/*/*.archive", "/models/*/*/*/*/*.archive", "/competitions/*.archive"],
  },
  {
    name: "CARGO_HOME",
    tool: "Cargo (Rust)",
    dir: "~/.cargo",
    holds: "Rust crates and the programs installed by Cargo",
    source: "https://doc.rust-lang.org/cargo/guide/cargo-home.html",
    exclude: ["/.package-cache", "/.package-cache-mutate"],
    env: { CARGO_NET_OFFLINE: "true" },
    caution: "More than a cache: config.toml, credentials.toml (tokens) and bin/, which is on PATH.",
  },
  {
    // A .partial file marks a module that is not fully unpacked: it has to be copied.
    name: "GOMODCACHE",
    tool: "Go",
    dir: "~/go/pkg/mod",
    holds: "Go modules",
    source: "https://go.dev/ref/mod#module-cache",
    exclude: ["/cache/lock", "/cache/vcs/*.lock", "/cache/download/**/@v/*.lock", "/cache/download/**/@v/*.tmp"],
    env: { GOPROXY: "off" },
    caution: "Its directories are read-only unless Go runs with -modcacherw.",
  },
  {
    name: "npm_config_cache",
    tool: "npm",
    dir: "~/.npm",
    holds: "npm packages",
    source: "https://docs.npmjs.com/cli/v11/using-npm/config#cache",
    exclude: ["/_logs/", "/_cacache/tmp/"],
    env: { npm_config_offline: "true" },
  },
];

const byName = new Map(presets.map((preset) => [preset.name, preset]));

/** The preset of a variable, if ef knows it. */
export function presetOf(name: string): Preset | undefined {
  return byName.get(name);
}
