/** Environments to measure with: made by uv, from the index. */
import { join, resolve } from "node:path";

/** The programs that scripts/setup-tests.sh has put there from PyPI. */
export const pypiBin = join(resolve(import.meta.dir, "../.."), "node_modules/.cache/py/bin");

/** Some 20,000 files, with no program in them that kpy's load dies of. */
const packages = "numpy scipy pandas matplotlib scikit-learn sympy networkx statsmodels bokeh nltk plotly pip".split(
  " ",
);

/**
 * @param version of Python, or its path; undefined: uv's choice
 * @returns the path
 */
export async function makeEnv(path: string, version: string | undefined): Promise<string> {
  const uv = join(pypiBin, "uv");
  const asked = version === undefined ? [] : ["--python", version];
  for (const argv of [
    [uv, "venv", "--quiet", ...asked, "--", path],
    [uv, "pip", "install", "--quiet", "--link-mode", "copy", "--python", path, "--", ...packages],
  ]) {
    const code = await Bun.spawn(argv, { stdio: ["ignore", "inherit", "inherit"] }).exited;
    if (code !== 0) throw new Error(`${argv.join(" ")}: exit code ${code}`);
  }
  return path;
}
