/** What interrupted copies of images leave on scratch. Unlike a sync, which knows the whole tree, this one is of one file. */
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { walk } from "../base/steps.ts";
import { mark } from "../base/trace.ts";
import type { Copying } from "../engine/copy-file.ts";
import { nameOfBeginning } from "../engine/copy-large.ts";
import { isAbandoned, isTemp, partName, partOf } from "../engine/names.ts";

/**
 * Put in order what killed runs left: what they had begun of a large image gets the name under which it is gone on with,
 * also that of other images, which their own sync will find; what is of no more use is removed.
 *
 * @param own the name of what was begun of this version of this image
 * @returns how much of that there is, in bytes
 */
export async function keepBeginnings(
  { target, to }: Copying,
  temps: readonly ByteString[],
  own: ByteString,
): Promise<number> {
  const start = partName("");
  const isBeginning = (name: string) => name.startsWith(start) && isTemp(name);
  const parts = new Set(temps.filter(isBeginning));
  let ownBytes = 0;
  const attempt = async (name: ByteString, work: () => Promise<void>) => {
    try {
      await work();
    } catch (error) {
      mark("leftover", { path: name, why: errnoOf(error) }); // the next run finds it again
    }
  };
  for (const name of temps.filter((temp) => !isBeginning(temp)))
    await attempt(name, async () => {
      const stat = await target.lstat(`${to}/${name}`);
      if (Number(stat.uid) !== process.geteuid?.() || !isAbandoned(name, Date.now() - Number(stat.mtimeMs))) return;
      const begun = stat.isFile() ? await walk(nameOfBeginning(target, `${to}/${name}`)) : undefined;
      if (begun === undefined || !isBeginning(begun) || parts.has(begun)) return await target.unlink(`${to}/${name}`);
      await target.rename(`${to}/${name}`, `${to}/${begun}`);
      parts.add(begun);
    });
  for (const name of parts)
    await attempt(name, async () => {
      const stat = await target.lstat(`${to}/${name}`);
      if (Number(stat.uid) !== process.geteuid?.()) return;
      if (name === own) ownBytes = Number(stat.blocks) * 512;
      else if (partOf(name) === partOf(own) || isAbandoned(name, Date.now() - Number(stat.mtimeMs)))
        await target.unlink(`${to}/${name}`);
    });
  return ownBytes;
}
