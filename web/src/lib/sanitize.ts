// HTML that may stand in the page: the last door before {@html}, whatever made the HTML.
//
// Text of models, tools and other people is hostile until shown otherwise. Only tags that Markdown makes pass, no
// style, no id or name (they would shadow the page's own), no address but http, https and mailto, and no image but
// one that is already here (data:): loading another would tell a stranger that, and when, somebody read this.

import createDOMPurify from "dompurify";

const TAGS = [
  ..."p br hr h1 h2 h3 h4 h5 h6 strong b em i del s u mark sub sup kbd code pre blockquote ul ol li".split(" "),
  ..."table thead tbody tr th td a img span div".split(" "),
];
const ATTRIBUTES = ["href", "title", "src", "alt", "class", "align", "start"];
/** The classes this page's own renderers give: code languages, highlight.js tokens, headings, the table's scroller, tasks, code in lists, formulas. */
const CLASS = /^(?:language-[\w+#.-]{1,32}|hljs-[\w-]{1,32}|[\w-]{1,24}_|depth-[1-6]|scroll|task|code|copy|image|math|display)$/;
const LINK = /^(?:https?:\/\/|mailto:)/i;
const DATA_IMAGE = /^data:image\/(?:png|gif|jpeg|webp);base64,/i;

const purifier = createDOMPurify(window);

purifier.addHook("afterSanitizeAttributes", (element) => {
  const kept = [...element.classList].filter((name) => CLASS.test(name));
  if (kept.length > 0) element.setAttribute("class", kept.join(" "));
  else element.removeAttribute("class");
  if (element.tagName === "A") {
    if (isLink(element.getAttribute("href") ?? "")) {
      element.setAttribute("target", "_blank");
      element.setAttribute("rel", "noopener noreferrer nofollow");
    } else {
      element.removeAttribute("href");
    }
  }
  if (element.tagName === "IMG" && !isDataImage(element.getAttribute("src") ?? "")) element.remove();
});

/** `html` without anything that could run, load or reach out of its place. */
export function sanitize(html: string): string {
  return purifier.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
  });
}

export function isLink(href: string): boolean {
  return LINK.test(href);
}

export function isDataImage(src: string): boolean {
  return DATA_IMAGE.test(src);
}
