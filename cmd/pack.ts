import { EfError } from "../lib/base/errors.ts";
import { sizeText } from "../lib/base/units.ts";
import { columns } from "../lib/init.ts";
import type { PackageInfo } from "../lib/pack/package.ts";
import { cleanPackages, inspectPackage } from "../lib/pack.ts";
import { command, type Output } from "./args.ts";
import { pack, packageJson, packing, tellPackage } from "./packing.ts";
import { say } from "./process.ts";

export default command({
  name: "pack",
  description: "Pack a Python function, or a script, with all that it needs, into one archive",
  examples: [
    ["ef pack analysis.py:main --args '[3]'", "prints the path of the archive"],
    ["python3 $(ef pack analysis.py:main)", "run it: nothing but Python is needed"],
    ["ef pack --inspect main-3f9a2c1b45d60718.zip", "what is in it"],
    ["ef pack --clean --older-than 30", "remove packages older than 30 days"],
  ],
  args: {
    target: {
      type: "positional",
      valueHint: "FILE.py:FUNCTION|FILE.ts",
      description: "What to pack",
      values: "file",
    },
    ...packing,
    output: {
      type: "string",
      alias: "o",
      valueHint: "FILE",
      description: "Where to write it (default: ~/.cache/ef/packages, $EF_PACKAGE_DIR)",
      values: "file",
    },
    "dry-run": { type: "boolean", alias: "n", description: "Say what would be packed, write nothing" },
    inspect: {
      type: "string",
      valueHint: "ARCHIVE",
      description: "Say what is in a package, and check it",
      values: "file",
    },
    clean: { type: "boolean", description: "Remove packages that nobody has made anew for a while" },
    "older-than": { type: "string", valueHint: "DAYS", description: "For --clean (default: 30)" },
  },
  async run({ args }): Promise<Output> {
    if (args.inspect !== undefined) {
      const info = await inspectPackage(args.inspect);
      return { json: packageJson(info), text: args.json ? "" : contents(info) };
    }
    if (args.clean) {
      const removed = cleanPackages({ olderThanS: days(args["older-than"]) * 86_400 });
      if (!args.json) for (const path of removed) say(`removed ${path}\n`);
      return { json: { removed }, text: "" };
    }
    if (args.target === undefined)
      throw new EfError("USAGE", "ef pack: there is nothing to pack", { hint: "write: ef pack FILE.py:FUNCTION" });
    const info = await pack(args.target, args, {
      dryRun: args["dry-run"],
      ...(args.output === undefined ? {} : { output: args.output }),
    });
    if (!args.json) tellPackage(info);
    if (args["dry-run"])
      return { json: { dry_run: true, ...packageJson(info) }, text: args.json ? "" : contents(info) };
    return { json: packageJson(info), text: `${info.packagePath}\n` };
  },
});

function days(text = "30"): number {
  if (/^\d{1,6}(?:\.\d+)?$/.test(text)) return Number(text);
  throw new EfError("USAGE", `ef pack --older-than ${text}: not a number of days`);
}

function contents({ packageId, metadata, dependencies }: PackageInfo): string {
  const { function_info: info } = metadata;
  const rows = metadata.files.map(({ path, size_bytes }) => [sizeText(size_bytes), path]);
  return [
    `${info.name}  ${info.file}${metadata.kind === "python" ? `:${info.lineno}` : ""}`,
    `id ${packageId}`,
    ...(metadata.python_version === null ? [] : [`Python ${metadata.python_version}`]),
    ...columns(rows),
    ...dependencies.packages.map(({ name, version }) => `${name}${version === null ? "" : `==${version}`}`),
    "",
  ].join("\n");
}
