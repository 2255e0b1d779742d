/** Symbolic links that may lead out of an environment. */
import type { ByteString } from "../base/bytes.ts";

/**
 * A link to the Python that an environment is based on: `bin/python` and its other names.
 *
 * @param path relative to the environment
 */
const isInterpreter = (path: ByteString, text: ByteString): boolean =>
  /^bin\/(?:python|pypy)[0-9.]*t?$/.test(path) && /^\/(?:.*\/)?[^/]*py[^/]*$/s.test(text) && !isDotted(text);

/** Does it lead to where the environment was: to a place that moves with it? */
const isWithinPlaces = (text: ByteString, places: readonly ByteString[]): boolean =>
  places.some((place) => text.startsWith(`${place}/`)) && !isDotted(text);

const isDotted = (text: ByteString) => /\/\.\.?(?:\/|$)/.test(text);

/**
 * Which absolute links belong to an environment.
 *
 * @param places where the environment is, or was
 */
export const belongs =
  (places: readonly ByteString[]) =>
  (path: ByteString, text: ByteString): boolean =>
    isInterpreter(path, text) || isWithinPlaces(text, places);
