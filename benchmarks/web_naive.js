// The page most people would write first: at every event the whole answer is parsed, cleaned, put into innerHTML and
// coloured. The same libraries, in the same versions, as chatserver's own page.
import { marked } from "/naive/marked.js";
import DOMPurify from "/naive/purify.js";

const { highlight } = await import("/naive/languages.js");
const session = new URL(location.href).searchParams.get("session");
const log = document.getElementById("log");
let text = "";

function render() {
  log.innerHTML = DOMPurify.sanitize(marked.parse(text));
  for (const code of log.querySelectorAll("pre code")) {
    const language = /language-(\w+)/.exec(code.className)?.[1] ?? "";
    const html = highlight(code.textContent, language);
    if (html !== null) code.innerHTML = DOMPurify.sanitize(html);
  }
  log.scrollTop = log.scrollHeight;
}

const stream = new EventSource(`/api/chat/stream?session_id=${session}`);
stream.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === "snapshot") document.body.dataset.state = "connected";
  if (event.type === "turn.started") text = "";
  if (event.type === "text.delta") {
    text += event.text;
    render();
  }
  if (event.type === "turn.ended") document.body.dataset.ended = Number(document.body.dataset.ended ?? 0) + 1;
};

window.send = (message) =>
  fetch("/api/chat", {
    method: "POST",
    headers: { "Content-Type": "application/json", Prefer: "return=minimal" },
    body: JSON.stringify({ message, session_id: session }),
  });
