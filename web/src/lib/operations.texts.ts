// What the operations page says; apart from texts.ts, so that people who chat do not load it.

export const en = {
  title: "Operations",
  subtitle: (version: string) => `chatserver ${version}`,
  updated: (time: string) => `as of ${time}`,
  loading: "Asking the server…",
  paused: "The server does not answer. Trying again…",
  refusedTitle: "This page is for operators",
  refusedText:
    "Sign in with an account that has the scope admin, or open this page from an address that metrics_from lists: by default, this computer.",
  toChat: "To the conversation",
  since: (time: string) => `since ${time}`,
  at: (time: string) => `at ${time}`,
  highest: (value: string) => `highest ${value}`,
  each: (seconds: string) => `in ${seconds} s`,
  nothing: "nothing yet",

  streams: "Open streams",
  sessions: "Live sessions",
  turns: "Running turns",
  tokens: "Tokens a second",
  firstToken: "Time to the first token",
  lag: "Event loop lag",
  outcomes: "Turns ended",
  errors: "Errors and refusals",
  errorsSoFar: "Errors and refusals in an hour",
  evictions: "Evictions",
  commits: "Commits a second",
  memory: "Memory of sessions",
  behind: "Streams behind",

  series: {
    open: "open",
    behind: "behind",
    running: "running",
    queued: "queued",
    p50: "half within",
    p99: "99 of 100 within",
    completed: "completed",
    interrupted: "stopped",
    failed: "failed",
    server: "server errors",
    upstream: "model errors",
    refused: "refused requests",
    live: "live",
    tokens: "tokens/s",
    lag: "worst",
    evicted: "evicted",
    commits: "commits/s",
    waiting: "waiting",
  },
};

export type OperationsTexts = typeof en;

export const de: OperationsTexts = {
  title: "Betrieb",
  subtitle: (version) => `chatserver ${version}`,
  updated: (time) => `Stand ${time}`,
  loading: "Der Server wird gefragt…",
  paused: "Der Server antwortet nicht. Neuer Versuch…",
  refusedTitle: "Diese Seite ist für Betreiber",
  refusedText:
    "Melden Sie sich mit einem Konto an, das den Bereich admin hat, oder öffnen Sie die Seite von einer Adresse, die in metrics_from steht: von sich aus nur dieser Rechner.",
  toChat: "Zum Gespräch",
  since: (time) => `seit ${time}`,
  at: (time) => `um ${time}`,
  highest: (value) => `höchstens ${value}`,
  each: (seconds) => `in ${seconds} s`,
  nothing: "noch nichts",

  streams: "Offene Ströme",
  sessions: "Sitzungen im Speicher",
  turns: "Laufende Antworten",
  tokens: "Token je Sekunde",
  firstToken: "Zeit bis zum ersten Token",
  lag: "Verzug der Ereignisschleife",
  outcomes: "Beendete Antworten",
  errors: "Fehler und Ablehnungen",
  errorsSoFar: "Fehler und Ablehnungen in einer Stunde",
  evictions: "Ausgelagerte Sitzungen",
  commits: "Commits je Sekunde",
  memory: "Speicher der Sitzungen",
  behind: "Ströme im Rückstand",

  series: {
    open: "offen",
    behind: "im Rückstand",
    running: "laufend",
    queued: "wartend",
    p50: "die Hälfte binnen",
    p99: "99 von 100 binnen",
    completed: "fertig",
    interrupted: "gestoppt",
    failed: "gescheitert",
    server: "Serverfehler",
    upstream: "Modellfehler",
    refused: "abgelehnte Anfragen",
    live: "im Speicher",
    tokens: "Token/s",
    lag: "größter",
    evicted: "ausgelagert",
    commits: "Commits/s",
    waiting: "wartend",
  },
};

/** The catalogue of a language; English where there is none. */
export function operationsTexts(code: string): OperationsTexts {
  return code === "de" ? de : en;
}
