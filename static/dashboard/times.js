// Times are rendered in UTC and shown in the viewer's zone.

function pad(value) {
  return String(value).padStart(2, "0");
}

/** The clock time; with the day where it is not today. */
export function clock(timestamp, now = new Date()) {
  const at = new Date(timestamp);
  if (Number.isNaN(at.getTime())) return "—";
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  if (at.toDateString() === now.toDateString()) return time;
  return `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

/** Time in flight, counted by the second so that it does not flicker. */
export function elapsed(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${pad(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${pad(Math.floor(seconds / 60) % 60)} m`;
}

/** Shows every time below `root` in the viewer's zone. */
export function localize(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const text = clock(time.dateTime);
    if (time.dateTime && time.textContent !== text) time.textContent = text;
  }
}
