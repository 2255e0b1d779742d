/**
 * What the configuration says of an image, changed as it stands in the file.
 *
 * euler-files reads the record too, and fails with all its commands on a key that it does not know: what ef adds is in
 * `ef.apptainer.images`.
 */
import type { RawConfig } from "../config/schema.ts";

/** The keys of a record that euler-files writes; one that is there keeps its `enabled`. */
export interface ImageRecord {
  venv_name: string;
  python_version: string;
  sif_filename: string;
  /** Seconds since 1970. */
  built_at: number;
}

/** Only ef's own. */
export interface ImageExtension {
  /** Unknown for an image whose build was not recorded, and whose definition is gone. */
  packages_sha256?: string;
}

/** With the record of an image that was built. */
export function withRecord(raw: RawConfig, name: string, record: ImageRecord, extension: ImageExtension): RawConfig {
  const section = tree(raw.apptainer);
  const images = tree(section.images);
  const entry = { enabled: true, ...(Object.hasOwn(images, name) ? tree(images[name]) : {}), ...record };
  const ef = tree(raw.ef);
  const ofEf = tree(ef.apptainer);
  return {
    ...raw,
    apptainer: { ...section, images: { ...images, [name]: entry } },
    ef: { ...ef, apptainer: { ...ofEf, images: { ...tree(ofEf.images), [name]: extension } } },
  };
}

/** Without the record of an image; all else stays. */
export function withoutRecord(raw: RawConfig, name: string): RawConfig {
  const section = tree(raw.apptainer);
  const changed = { ...raw, apptainer: { ...section, images: without(tree(section.images), name) } };
  const ef = tree(raw.ef);
  const ofEf = tree(ef.apptainer);
  const images = tree(ofEf.images);
  if (!Object.hasOwn(images, name)) return changed;
  return { ...changed, ef: { ...ef, apptainer: { ...ofEf, images: without(images, name) } } };
}

const without = (all: RawConfig, name: string) =>
  Object.fromEntries(Object.entries(all).filter(([key]) => key !== name));

const tree = (value: unknown) => (value ?? {}) as RawConfig;
