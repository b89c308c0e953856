// Where things are, as seen from this file: so the page works under every scheme, name, port and
// path prefix.

/** `…/dashboard/` */
export const DASHBOARD = new URL("../../", import.meta.url);
/** `…/logs/` */
export const LOGS = new URL("../logs/", DASHBOARD);
/** What a client has to be given as its base URL. */
export const PROXY = new URL("../", DASHBOARD).href.replace(/\/$/, "");

export function socketAddress(parameters) {
  const url = new URL(`ws?${parameters}`, DASHBOARD);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}
