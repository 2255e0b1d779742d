/**
 * The README of taurus-datamover, line by line, as one script; each line of it stands above ours.
 *
 * Run it where the paths exist: `GRP=/grp/g_biapol PROJECTS=/projects/p_bioimage bun seed-002.ts`. Nothing of it knows how
 * the data movers are reached here: by the site's `dt*` tools, or by a partition of Slurm.
 */
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
// from taurus_datamover import Datamover, waitfor
import { CacheWorkspace, Datamover, Workspace, waitfor } from "ef";

const { GRP = "/grp/g_biapol", PROJECTS = "/projects/p_bioimage" } = process.env;
/** Dots and the messages of the queue, as `waitfor` of taurus-datamover prints them. */
const shown = { write: (text: string) => process.stderr.write(text), dots: process.stderr.isTTY };

// dm = Datamover()
const dm = new Datamover();

// out, _ = dm.dtls('--help').communicate(); print(out.decode('utf-8'))
const help = await dm.dtls("--help").communicate();
console.log(help.stdout.split("\n")[0]);

// proc = dm.dtls('-lh','/grp/g_biapol')
const proc = dm.dtls("-lh", GRP);
// proc.poll()
console.log("poll:", proc.poll());
await proc.wait();
// proc.poll()
console.log("poll:", proc.poll());

// proc = dm.dtls('-lh','/grp/g_biapol'); waitfor(proc)
const listing = dm.dtls("-lh", GRP);
console.log("waitfor:", await waitfor(listing, shown));
// out, _ = proc.communicate(); print(out.decode('utf-8'))
const { stdout } = await listing.communicate();
console.log(stdout);

// waitfor(dm.dtcp('-r','/grp/g_biapol/data/test', '/projects/p_bioimage/'))
console.log("dtcp:", await waitfor(dm.dtcp("-r", join(GRP, "data/test"), `${PROJECTS}/`), shown));
// !ls -la /projects/p_bioimage/test/
console.log("test:", (await readdir(join(PROJECTS, "test"))).join(" "));
// waitfor(dm.dtrm('-r', '/projects/p_bioimage/test'))
console.log("dtrm:", await waitfor(dm.dtrm("-r", join(PROJECTS, "test")), shown));
// !ls -la /projects/p_bioimage/test/
console.log("test:", await readdir(join(PROJECTS, "test")).catch((error) => error.code));

// from taurus_datamover import Workspace, CacheWorkspace; ws = Workspace()
const ws = new Workspace();
// out, _ = ws.ws_allocate('my-workspace', '30').communicate(); workspace_path = out.strip().decode('utf-8')
const workspacePath = (await ws.ws_allocate("my-workspace", "30").communicate()).stdout.trim();
console.log("workspace:", workspacePath);
// out, _ = ws.ws_list().communicate(); print(out.strip().decode('utf-8'))
console.log((await ws.ws_list().communicate()).stdout.trim());
// The same, read: no text to take apart.
for (const { id, path, remainingS, extensionsLeft } of await ws.list())
  console.log(id, path, Math.round(remainingS / 86_400), extensionsLeft);
// ws.ws_release('my-workspace').wait()
console.log("ws_release:", await ws.ws_release("my-workspace").wait());

// cws = CacheWorkspace()
const cws = await CacheWorkspace.open();
// from tempfile import TemporaryDirectory; tmp = TemporaryDirectory(prefix=cws.name + '/'); tmp.name
const tmp = await mkdtemp(`${cws.name}/`);
console.log("tmp:", tmp);
await rm(tmp, { recursive: true });
// cws.cleanup()
await cws.cleanup();

// with CacheWorkspace() as cws:
{
  await using cws = await CacheWorkspace.open();
  // temp_file = cws.name + '/temp.tiff'; imsave(temp_file)
  const tempFile = join(cws.name, "temp.tiff");
  await writeFile(tempFile, "image");
  // target_file='/projects/my_project/data.tiff'; dm.dtcp(temp_file, target_file)
  console.log("dtcp:", await waitfor(dm.dtcp(tempFile, join(PROJECTS, "data.tiff")), shown));
}
