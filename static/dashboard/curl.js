// The command that asks the same again, as far as the record tells what was asked.

import { PROXY } from "./addresses.js";

export function curl({ method, path, body }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = ["curl -i", `-X ${method}`, quoted(PROXY + path)];
  if (method !== "GET" && method !== "HEAD") {
    parts.push("-H 'content-type: application/json'", `-d ${quoted(body)}`);
  }
  return parts.join(" ");
}
