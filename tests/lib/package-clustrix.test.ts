/**
 * Beside clustrix 0.1.1 from PyPI: the examples of its documentation, packed by both. The module file_packaging that the documentation
 * describes is not in what PyPI has: there it is `serialize_function`, a pickle of the function.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, renameSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { packageFunction } from "../../lib/pack.ts";
import { Home, run } from "../helpers.ts";

setDefaultTimeout(60_000);

const clustrix = resolve(import.meta.dir, "../../node_modules/.cache/clustrix/bin/python");
const bare = { PATH: "/usr/bin:/bin" };

interface Example {
  functionName: string;
  code: string;
  args?: unknown[];
  kwargs?: Record<string, unknown>;
  /** What is to be found in it. */
  imports: string[];
  calls?: string[];
  functions?: string[];
  packages?: string[];
}

const examples: Example[] = [
  {
    functionName: "simple_analysis",
    code: "def simple_analysis():\n    import math\n    result = math.sqrt(42)\n    return result\n",
    imports: ["math"],
  },
  {
    functionName: "main_analysis",
    code: `
def helper_function(data):
    return [x * 2 for x in data if x > 0]
def process_data(filename):
    with open(filename, 'r') as f:
        numbers = [int(line.strip()) for line in f]
    return helper_function(numbers)
def main_analysis():
    from clustrix import cluster_find
    data_files = cluster_find("*.txt", "input/")
    results = []
    for filename in data_files:
        result = process_data(filename)
        results.append(sum(result))
    return results
`,
    ...{ imports: ["clustrix"], calls: ["cluster_find"], functions: ["helper_function", "process_data"] },
    packages: ["clustrix"],
  },
  {
    functionName: "filesystem_analysis",
    code: `
def filesystem_analysis():
    from clustrix import (
        cluster_ls, cluster_find, cluster_stat,
        cluster_exists, cluster_du, cluster_count_files
    )
    all_files = cluster_ls("data/")
    total_files = cluster_count_files("data/", "*")
    usage = cluster_du("data/")
    csv_files = cluster_find("*.csv", "data/")
    large_files = [f for f in all_files if cluster_exists(f) and cluster_stat(f).size > 1_000_000]
    return {'total_files': total_files, 'total_size_gb': usage.total_gb, 'csv_files': len(csv_files), 'large_files': large_files}
`,
    imports: ["clustrix"],
    calls: ["cluster_count_files", "cluster_du", "cluster_exists", "cluster_find", "cluster_ls", "cluster_stat"],
    packages: ["clustrix"],
  },
  {
    functionName: "scientific_analysis",
    code: `
def scientific_analysis():
    import numpy as np
    import pandas as pd
    import scipy.stats as stats
    from clustrix import cluster_find
    results = []
    for filename in cluster_find("*.csv", "experiments/"):
        df = pd.read_csv(filename)
        for col in df.select_dtypes(include=[np.number]).columns:
            results.append({'file': filename, 'p': stats.shapiro(df[col].dropna())[1]})
    return results
`,
    ...{ imports: ["clustrix", "numpy", "pandas", "scipy.stats"], calls: ["cluster_find"] },
    packages: ["clustrix", "numpy", "pandas", "scipy"],
  },
  {
    functionName: "custom_analysis",
    code: `
def custom_analysis(data_dir, output_format="json"):
    import json
    from clustrix import cluster_find, cluster_stat
    results = {f: {'size': cluster_stat(f).size} for f in cluster_find("*.dat", data_dir)}
    return json.dumps(results, indent=2) if output_format == "json" else results
`,
    ...{ args: ["experiments/"], kwargs: { output_format: "dict" }, imports: ["clustrix", "json"] },
    ...{ calls: ["cluster_find", "cluster_stat"], packages: ["clustrix"] },
  },
  {
    functionName: "function_with_missing_deps",
    code: "def function_with_missing_deps():\n    from clustrix import cluster_ls\n    files = cluster_ls('.')\n    return undefined_function(files)\n",
    ...{ imports: ["clustrix"], calls: ["cluster_ls"], packages: ["clustrix"] },
  },
];

/** What its documentation reads from a package, read in the way it does. */
const inspect = `
import json, sys, zipfile
with zipfile.ZipFile(sys.argv[1], "r") as zf:
    sizes = {name: zf.getinfo(name).file_size for name in zf.namelist()}
    metadata = json.loads(zf.read("metadata.json").decode())
needs = metadata["dependencies"]
print(json.dumps({"name": metadata["function_info"]["name"], "sizes": sizes,
  "needs": needs["requires_dependencies"], "filesystem": needs["requires_cluster_filesystem"],
  "imports": sorted({imp["module"] for imp in needs["imports"]}), "from": [imp["is_from_import"] for imp in needs["imports"]],
  "calls": sorted({call["function"] for call in needs["filesystem_calls"] if call["lineno"] > 0})}))
`;

/** Packs by clustrix; prints the sum of the package, and whether texts are in it. */
const byClustrix = `
import hashlib, json, pickle, sys
sys.path.insert(0, "."); import main
from clustrix import utils
utils.get_environment_requirements = utils.get_environment_info = dict  # pip freeze, for a second: nothing of it is looked at
packed = pickle.dumps(utils.serialize_function(getattr(main, sys.argv[1]), tuple(json.loads(sys.argv[2])), json.loads(sys.argv[3])))
open(sys.argv[4], "wb").write(packed)
print(json.dumps([hashlib.sha256(packed).hexdigest(), *[text.encode() in packed for text in sys.argv[5:]]]))
`;

describe.skipIf(!existsSync(clustrix))("beside clustrix [needs clustrix from PyPI]", () => {
  async function theirs(dir: string, { functionName, args = [], kwargs = {} }: Example, ...texts: string[]) {
    const file = join(dir, "..", "function_data.pkl");
    const words = [functionName, JSON.stringify(args), JSON.stringify(kwargs), file, ...texts];
    const { stdout, stderr, code } = await run([clustrix, "-c", byClustrix, ...words], { cwd: dir, env: bare });
    expect([stderr, code]).toEqual(["", 0]);
    return { file, found: JSON.parse(stdout) as [string, ...boolean[]] };
  }

  test.each(examples.map((each) => [each.functionName, each] as const))("%s", async (_, example) => {
    using at = new Home();
    const { functionName, code, args = [], kwargs = {} } = example;
    at.write("p/main.py", code);
    const dir = join(at.home, "p");
    await theirs(dir, example);
    const { packagePath, dependencies, metadata, sizeBytes } = await packageFunction({
      ...{ file: "main.py", functionName, args, kwargs, cwd: dir, env: at.env },
    });
    const { stdout } = await run([clustrix, "-c", inspect, packagePath], { env: bare });
    const read = JSON.parse(stdout);
    const { imports, calls = [], functions = [], packages = [] } = example;
    expect(read).toMatchObject({ name: functionName, imports, calls, filesystem: calls.length > 0 });
    expect(read.needs).toBe(packages.length > 0);
    expect(read.sizes["files/main.py"]).toBe(Buffer.byteLength(code));
    expect(dependencies.local_functions.map(({ name }) => name)).toEqual(functions);
    expect(dependencies.packages.map(({ name }) => name)).toEqual(packages);
    expect([metadata.has_filesystem_ops, metadata.has_dependencies]).toEqual([read.filesystem, read.needs]);
    expect(sizeBytes).toBeGreaterThan(0);
  });

  const reading: Example = {
    ...{ functionName: "total", args: ["a/n.txt"], imports: [] },
    code: "def total(name):\n    rows = open('a/n.txt').read() + open('b/n.txt').read()\n    return [name, sum(map(int, rows.split()))]\n",
  };

  test("a byte of a data file: another id here, the same package there; and only here it runs elsewhere", async () => {
    using at = new Home();
    const dir = join(at.home, "p");
    for (const [path, text] of Object.entries({ "main.py": reading.code, "a/n.txt": "1 2\n", "b/n.txt": "30" }))
      at.write(`p/${path}`, text);
    const ours = () =>
      packageFunction({ file: "main.py", functionName: "total", args: ["a/n.txt"], cwd: dir, env: at.env });
    const [before, theirsBefore] = [await ours(), await theirs(dir, reading)];
    writeFileSync(join(dir, "b/n.txt"), "31");
    const [after, theirsAfter] = [await ours(), await theirs(dir, reading)];
    expect(theirsAfter.found[0]).toBe(theirsBefore.found[0]);
    expect(after.packageId).not.toBe(before.packageId);
    renameSync(dir, join(at.home, "gone"));
    const load =
      "import sys; from clustrix.utils import deserialize_function; import pickle; deserialize_function(pickle.load(open(sys.argv[1], 'rb')))";
    const loaded = await run([clustrix, "-c", load, theirsAfter.file], { cwd: "/", env: bare });
    expect([loaded.code, loaded.stderr]).toEqual([1, expect.stringContaining("No module named 'main'")]);
    for (const [info, sum] of [
      [before, 33],
      [after, 34],
    ] as const) {
      const { stdout } = await run([clustrix, info.packagePath], { cwd: "/", env: bare });
      expect(JSON.parse(stdout)).toEqual(["a/n.txt", sum]);
    }
  });

  test("where it was packed is in theirs, and not in ours", async () => {
    using at = new Home();
    const dir = join(at.home, "p");
    at.write("p/main.py", "def run(): return 1\n");
    const { found } = await theirs(dir, { functionName: "run", code: "", imports: [] }, dir);
    expect(found[1]).toBe(true);
    const { packagePath } = await packageFunction({ file: "main.py", functionName: "run", cwd: dir, env: at.env });
    const has =
      "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); print(any(sys.argv[2].encode() in z.read(n) for n in z.namelist()))";
    expect((await run([clustrix, "-c", has, packagePath, dir], { env: bare })).stdout).toBe("False\n");
  });
});
