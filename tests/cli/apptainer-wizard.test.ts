import { describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Home, have } from "../helpers.ts";
import { Terminal } from "../terminal.ts";

const path = (at: Home) => join(at.home, ".euler-files.json");
const saved = (at: Home) => JSON.parse(at.read(path(at)));

const questions = [
  "Directory of the environments",
  "Persistent directory of the images",
  "Directory on scratch that they",
  "Base image (base_image)",
  "Where the environment is in the image",
  "Extra arguments of apptainer build",
  "Save this?",
];

/** A new answer in the place of the one that stands there, when the question is asked for the nth time. */
async function replace(terminal: Terminal, question: string, answer: string, nth = 1): Promise<void> {
  const escaped = question.replace(/[()?]/g, "\\$&");
  await terminal.answer(new RegExp(`(?:${escaped}[\\s\\S]*){${nth}}`), "C-u");
  await terminal.press(answer, "Enter");
}

function home(more: object = {}): Home {
  const at = new Home();
  at.configure({}, more);
  return at;
}

describe.skipIf(!have("tmux"))("ef apptainer init on a terminal [needs tmux]", () => {
  test("the proposals, taken as they are", async () => {
    using at = home({ other: 1 });
    mkdirSync(join(at.home, "venvs/train"), { recursive: true });
    at.write("venvs/train/pyvenv.cfg", "home = /usr/bin\nversion = 3.11.2\n");
    await using terminal = await Terminal.open(at, "ef apptainer init");
    for (const question of questions.slice(0, -1)) await terminal.answer(question, "Enter");
    const screen = await terminal.shows("Save this?");
    expect(screen).toContain(`1 environment in ${at.home}/venvs`);
    expect(screen).toContain("oci-archive:PATH");
    expect(screen).toMatch(/copies on scratch +\$SCRATCH\/\.cache\/euler-files\/sif/);
    expect(saved(at).apptainer).toBeUndefined();
    await terminal.press("Enter");
    expect(await terminal.shows("code=0")).toContain("ef apptainer build NAME");
    expect(saved(at)).toMatchObject({ other: 1, scratch_base: "$SCRATCH" });
    expect(saved(at).apptainer).toEqual({
      venv_base: "~/venvs",
      sif_store: "~/.cache/euler-files/sif",
      scratch_sif_dir: "$SCRATCH/.cache/euler-files/sif",
      base_image: "python:{version}-slim",
      container_venv_path: "/opt/venv",
      build_args: process.geteuid?.() === 0 ? [] : ["--fakeroot"],
      images: {},
    });
  });

  test("wrong answers are asked again, with the reason; what was there is the starting point, and images stay", async () => {
    const images = { a: { venv_name: "a", python_version: "3.11.2", sif_filename: "a.sif" } };
    using at = home({ apptainer: { venv_base: "/gone", build_args: ["--nv", "--x=a b"], newer: 1, images } });
    await using terminal = await Terminal.open(at, "ef apptainer init");
    await replace(terminal, "Directory of the environments", "venvs");
    await terminal.shows("expected an absolute path");
    await replace(terminal, "Directory of the environments", "/new", 2);
    await terminal.shows("/new is not there yet");
    await replace(terminal, questions[1] as string, "$SCRATCH/sif");
    await terminal.shows("lies on scratch");
    await terminal.answer("Use it anyway?", "n");
    await replace(terminal, questions[1] as string, "~/sif", 2);
    await replace(terminal, questions[2] as string, "~/sif");
    await terminal.shows("it cannot be where they are copied to");
    await replace(terminal, questions[2] as string, "$SCRATCH/copies", 2);
    await replace(terminal, questions[3] as string, "base.sif");
    await terminal.shows("is not an absolute path");
    await replace(terminal, questions[3] as string, "/base.sif", 2);
    await replace(terminal, questions[4] as string, "/usr");
    await terminal.shows("directory of the system");
    await replace(terminal, questions[4] as string, "/opt/x", 2);
    await terminal.answer(questions[5] as string, "Enter");
    await terminal.answer("Save this?", "Enter");
    await terminal.shows("code=0");
    expect(saved(at).apptainer).toEqual({
      venv_base: "/new",
      sif_store: "~/sif",
      scratch_sif_dir: "$SCRATCH/copies",
      base_image: "/base.sif",
      container_venv_path: "/opt/x",
      build_args: ["--nv", "--x=a b"],
      newer: 1,
      images,
    });
  });

  test("Ctrl-C, Ctrl-D and Escape at any question: nothing is saved", async () => {
    using at = home();
    const before = at.read(path(at));
    for (const [i, question] of questions.entries()) {
      await using terminal = await Terminal.open(at, "ef apptainer init");
      for (const each of questions.slice(0, i)) await terminal.answer(each, "Enter");
      await terminal.answer(question, ["C-c", "C-d", "Escape"][i % 3] ?? "");
      expect(await terminal.shows("code=130")).toContain("nothing saved");
      expect(at.read(path(at))).toBe(before);
    }
  });

  test("no to the last question: exit 1, nothing is saved", async () => {
    using at = home();
    const before = at.read(path(at));
    await using terminal = await Terminal.open(at, "ef apptainer init --json");
    for (const question of questions.slice(0, -1)) await terminal.answer(question, "Enter");
    await terminal.answer("Save this?", "n");
    expect(await terminal.shows("code=1")).toContain('"status": "aborted"');
    expect(at.read(path(at))).toBe(before);
  });

  test("without a configuration there is nothing to ask", async () => {
    using at = new Home();
    await using terminal = await Terminal.open(at, "ef apptainer init");
    expect(await terminal.shows("code=2")).toContain("ef init");
  });
});

describe.skipIf(!have("tmux"))("ef apptainer build on a terminal [needs tmux]", () => {
  test("without a name the environments are shown, and the one that is chosen is built; Ctrl-C builds none", async () => {
    using at = home({ apptainer: { venv_base: "~/venvs", sif_store: "~/sif" } });
    for (const [name, version] of Object.entries({ one: "3.11.2", two: "3.9.7" }))
      at.write(`venvs/${name}/pyvenv.cfg`, `home = /usr/bin\nversion = ${version}\n`);
    await using terminal = await Terminal.open(at, "ef apptainer build --dry-run");
    expect(await terminal.shows("Which environment")).toMatch(
      /one +Python 3\.11\.2 +no image\s[\s\S]*two +Python 3\.9\.7/,
    );
    await terminal.press("Down", "Enter");
    expect(await terminal.shows("code=0")).toContain("# apptainer build");
    expect(await terminal.screen()).toContain("From: python:3.9-slim");
    await using other = await Terminal.open(at, "ef apptainer build --dry-run");
    await other.answer("Which environment", "C-c");
    const screen = await other.shows("code=130");
    expect(screen).toContain("nothing built");
    expect(screen).not.toContain("Bootstrap");
  });
});
