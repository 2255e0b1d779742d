import { plural, sizeText } from "../lib/base/units.ts";
import { type VenvWheels, venvWheel } from "../lib/venv-wheel.ts";
import { command } from "./args.ts";
import { optionalConfig } from "./optional-config.ts";
import { say, stopSignal } from "./process.ts";
import { packageArgs, tell } from "./venv-install.ts";

export default command({
  name: "venv wheel",
  description: "Fill the wheelhouse, for nodes without internet",
  examples: [
    ["ef venv wheel numpy transformers", "on a login node: these and all that they need"],
    ["ef venv wheel -r requirements.txt --python 3.11", "for that Python"],
  ],
  args: {
    packages: { type: "positional", multiple: true, valueHint: "PKG…", description: "Packages as pip takes them" },
    ...packageArgs,
    wheelhouse: {
      type: "string",
      valueHint: "DIR",
      description: "Directory of the wheels (default: ef.wheelhouse)",
      values: "dir",
    },
  },
  async run({ args }) {
    const { packages, python } = args;
    const done = await venvWheel(await optionalConfig(), {
      packages,
      requirements: args.requirements,
      python,
      wheelhouse: args.wheelhouse,
      indexUrl: args["index-url"],
      extraIndexUrls: args["extra-index-url"],
      dryRun: args["dry-run"],
      signal: stopSignal(),
      ...(args.json ? {} : { onOutput: tell }),
    });
    if (!args.json && !args["dry-run"]) say(summary(done));
    return {
      json: {
        wheelhouse: done.wheelhouse,
        packages,
        requirements_files: args.requirements,
        python: python ?? null,
        extra_index_urls: done.extraIndexUrls,
        dry_run: args["dry-run"],
        wheels: done.wheels,
        bytes: done.wheels.reduce((sum, { bytes }) => sum + bytes, 0),
        commands: [done.command],
      },
      text: args["dry-run"] ? `${done.command}\n` : "",
    };
  },
});

function summary({ wheelhouse, wheels }: VenvWheels): string {
  const fresh = wheels.filter(({ status }) => status !== "present");
  const bytes = fresh.reduce((sum, wheel) => sum + wheel.bytes, 0);
  const lines = fresh.map(({ name, status, bytes: size }) => `  ${status}: ${name} (${sizeText(size)})\n`);
  const there = wheels.length - fresh.length;
  return `${wheelhouse}: ${plural(fresh.length, "wheel")} put there (${sizeText(bytes)}), ${there} there already\n${lines.join("")}`;
}
