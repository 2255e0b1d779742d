import { describe, expect, test } from "bun:test";
import { checkConfig } from "../../lib/config/store.ts";
import { withoutRecord, withRecord } from "../../lib/images/records.ts";
import { imageOf } from "../../lib/images/store.ts";

const record = { venv_name: "v", python_version: "3.11.2", sif_filename: "a.sif", built_at: 1.5 };
const raw = {
  version: 1,
  scratch_base: "/s",
  kept: 1,
  apptainer: { sif_store: "/store", newer: 2 },
  ef: { venv_store: "/v" },
};

describe("the record of an image", () => {
  test("holds what euler-files knows and nothing else; the rest is below ef", () => {
    const built = withRecord(raw, "a", record, { packages_sha256: "sum" });
    expect(built).toEqual({
      ...raw,
      apptainer: { ...raw.apptainer, images: { a: { ...record, enabled: true } } },
      ef: { ...raw.ef, apptainer: { images: { a: { packages_sha256: "sum" } } } },
    });
    expect(imageOf(checkConfig(built, "test"), {}, "a").built?.packagesSha256).toBe("sum");
  });

  test("a disabled image stays disabled, options of builds and other images stay", () => {
    const before = {
      ...raw,
      apptainer: { images: { a: { ...record, enabled: false }, b: { ...record, enabled: true } } },
      ef: { apptainer: { compressor: "zstd", images: { b: { packages_sha256: "b" } } } },
    };
    const built = withRecord(before, "a", { ...record, built_at: 2 }, { packages_sha256: "a" });
    expect(built.apptainer).toEqual({
      images: { ...before.apptainer.images, a: { ...record, built_at: 2, enabled: false } },
    });
    expect(built.ef).toEqual({
      apptainer: { compressor: "zstd", images: { a: { packages_sha256: "a" }, b: { packages_sha256: "b" } } },
    });
    expect(withoutRecord(built, "a")).toEqual({
      ...before,
      apptainer: { images: { b: { ...record, enabled: true } } },
    });
  });

  test("of an image that euler-files has built: nothing else is touched", () => {
    const before = { ...raw, apptainer: { images: { a: { ...record, enabled: true } } } };
    expect(withoutRecord(before, "a")).toEqual({ ...raw, apptainer: { images: {} } });
  });
});
