// Which day it is, as a value that Svelte follows: what is told by days is told anew when a tab stands open over midnight.

/** A date that comes up to a minute late misleads nobody. */
const LOOK_MS = 60_000;

let day = $state(new Date().toDateString());

/** Names the day; of no use but to be compared and followed. */
export function today(): string {
  return day;
}

/** Keeps it true. Returns what ends that. */
export function keepToday(): () => void {
  const timer = setInterval(() => (day = new Date().toDateString()), LOOK_MS);
  return () => clearInterval(timer);
}
