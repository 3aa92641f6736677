import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { MarkdownBlocks, renderMarkdown, type Block } from "../markdown.ts";
import { sanitize } from "../sanitize.ts";

function dom(html: string): HTMLElement {
  const element = document.createElement("div");
  element.innerHTML = html;
  return element;
}

function text(blocks: readonly Block[]): string {
  return blocks.map((b) => (b.kind === "code" ? b.code : (dom(b.html).textContent ?? ""))).join("\n");
}

const SAMPLE = `# Sessions

A *session* is one **conversation**. See [the docs][d] and \`code\`.

- first
- second

  with a paragraph

1. one
2. two

| name | unit |
|------|-----:|
| a    | s    |
| b    | ms   |

The sum $\\sum_i x_i$ and \\(y\\):

$$
\\int_0^1 x\\,dx
$$

\`\`\`python
def f(x):
    return "**not bold**"
\`\`\`

> quoted
> twice

Setext
------

\tindented code

<b>bold</b> and H<sub>2</sub>O, a < b && c > d

***

[d]: https://example.org/docs
Last line`;

describe("a growing text", () => {
  it("ends as the same blocks however it was cut", () => {
    const whole = new MarkdownBlocks().update(SAMPLE, true);
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(SAMPLE.length), { maxLength: 30 }), (cuts) => {
        const growing = new MarkdownBlocks();
        for (const cut of cuts.sort((a, b) => a - b)) growing.update(SAMPLE.slice(0, cut), false);
        expect(growing.update(SAMPLE, true)).toEqual(whole);
      }),
      { numRuns: 200 },
    );
  });

  it("shows settled blocks as they will be in the end, at every cut", () => {
    // Without the link's definition, which comes last and does change a block before it.
    const source = SAMPLE.replace("[the docs][d]", "the docs");
    const whole = new MarkdownBlocks().update(source, true);
    const growing = new MarkdownBlocks();
    for (let cut = 1; cut <= source.length; cut++) {
      const blocks = growing.update(source.slice(0, cut), false);
      expect(blocks.slice(0, -2), source.slice(0, cut)).toEqual(whole.slice(0, Math.max(0, blocks.length - 2)));
    }
  });

  it("shows at every cut what reading all of it anew would show", () => {
    const piece = fc.constantFrom(
      ..."# |## |- |* |1. |  |    |\n|\n\n|```|~~~|`|**|*|> |---|===|text|word word|[a]|[a]: https://a.test|<b>|<div>|\t|&amp;".split("|"),
      ..."$ $$ \\( \\) \\[ \\] $x^2$ $$\\frac12$$".split(" "),
      "\n$$\nx\n$$\n",
      "| a | b |\n|---|---|\n| c | d |\n",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 25 }), (pieces) => {
        const growing = new MarkdownBlocks();
        let source = "";
        for (const next of pieces) {
          source += next;
          expect(growing.update(source, false), JSON.stringify(source)).toEqual(new MarkdownBlocks().update(source, false));
        }
      }),
      { numRuns: 500 },
    );
  });

  it("forgets a definition that turned out to be none", () => {
    const growing = new MarkdownBlocks();
    let source = "";
    for (const next of ["# ", "| a | b |\n|---|---|\n| c | d |\n", "1. ", "[a]: https://a.test", "# ", "# "]) {
      source += next;
      expect(growing.update(source, false), source).toEqual(new MarkdownBlocks().update(source, false));
    }
  });

  it("keeps the very objects of settled blocks", () => {
    const growing = new MarkdownBlocks();
    const before = growing.update("One.\n\nTwo.\n\nThree.\n\nFo", false);
    const after = growing.update("One.\n\nTwo.\n\nThree.\n\nFour and more", false);
    expect(after.slice(0, 3).every((block, i) => block === before[i])).toBe(true);
    const done = growing.update("One.\n\nTwo.\n\nThree.\n\nFour and more", true);
    expect(done.every((block, i) => block === after[i])).toBe(true);
  });

  it("starts over when the text was replaced", () => {
    const growing = new MarkdownBlocks();
    growing.update("One.\n\nTwo.\n\nThree.\n\nFour", false);
    expect(text(growing.update("Other", false)).trim()).toBe("Other");
  });

  it.each([
    ["Before\n\n``", "Before"],
    ["Before\n\n```py", "Before"],
    ["Items:\n-", "Items:"],
    ["Before\n\n#", "Before"],
    ["Before\n\n| a | b |", "Before"],
    ["Before\n\n| a | b |\n|--", "Before"],
    ["See the [old docs](https://exa", "See the old docs"],
    ["It is **very imp", "It is very"],
    ["It is **important** to kn", "It is important to"],
    ["Call `fun", "Call"],
    ["Call `fun(a, ", "Call fun(a,"],
    ["Nothing but wor", "Nothing but wor"],
    ["**これは**漢字", "これは漢字"],
    ["So $$\\frac{1", "So"],
    ["So \\(a + b", "So"],
    ["So $\\alpha + ", "So"],
    ["It costs $5 and ", "It costs $5 and"],
  ])("does not show what is still forming: %j", (source, shown) => {
    expect(text(new MarkdownBlocks().update(source, false)).trim()).toBe(shown);
  });

  it("does not show a fence that is being closed as code", () => {
    const blocks = new MarkdownBlocks().update("```js\nlet x;\n``", false);
    expect(blocks).toMatchObject([{ kind: "code", language: "js", code: "let x;" }]);
  });

  it("shows what looks forming as it is once nothing more comes", () => {
    expect(text(new MarkdownBlocks().update("2 ** 3 and `", true)).trim()).toBe("2 ** 3 and `");
  });
});

describe("mathematics", () => {
  const formulas = (source: string): [string, boolean][] =>
    [...dom(renderMarkdown(source)).querySelectorAll(".math")].map((e) => [e.textContent ?? "", e.classList.contains("display")]);

  it.each([
    ["$x^2$", [["x^2", false]]],
    ["\\(a_1 + b_1\\) and \\[c\\]", [["a_1 + b_1", false], ["c", true]]],
    ["$$\n\\frac{1}{2}\n$$", [["\\frac{1}{2}", true]]],
    ["\\[\nx < y\n\\]", [["x < y", true]]],
    ["Inline $$z$$ too", [["z", true]]],
    ["| a |\n|---|\n| $x$ |", [["x", false]]],
  ])("is found in %j", (source, found) => {
    expect(formulas(source)).toEqual(found);
  });

  it.each(["$5 and $6", "a $ b $ c", "`$x$`", "```\n$$x$$\n```", "$$x\n\ny$$", "\\$x\\$"])("is not seen in %j", (source) => {
    expect(formulas(source)).toEqual([]);
  });

  it("keeps markup inside a formula as text", () => {
    expect(formulas("$a<img src=x onerror=alert(1)>b_i c_i$")).toEqual([["a<img src=x onerror=alert(1)>b_i c_i", false]]);
  });

  it("reads a long row of openings in no time", () => {
    const started = performance.now();
    renderMarkdown("\\(a \\[b $c ".repeat(3_000));
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});

describe("what may stand in the page", () => {
  it("opens links elsewhere and tells them nothing", () => {
    const link = dom(renderMarkdown("[a](https://example.org/x?y=1&z=2)")).querySelector("a")!;
    expect(link.getAttribute("href")).toBe("https://example.org/x?y=1&z=2");
    expect(link.target).toBe("_blank");
    expect(link.rel).toBe("noopener noreferrer nofollow");
  });

  it.each(["/api/state", "javascript:alert(1)", "data:text/html,x", "JaVaScRiPt:x", "file:///etc/passwd", "//evil.test"])(
    "makes no link of %j",
    (href) => {
      expect(dom(renderMarkdown(`[a](${href})`)).querySelector("a[href]")).toBeNull();
    },
  );

  it("loads no image from anywhere, and links to it instead", () => {
    const html = dom(renderMarkdown("![secret](https://evil.test/?q=1) ![here](/api/state) ![ok](data:image/png;base64,AAAA)"));
    expect([...html.querySelectorAll("img")].map((i) => i.getAttribute("src"))).toEqual(["data:image/png;base64,AAAA"]);
    expect(html.querySelector("a")?.textContent).toBe("Image: secret");
  });

  it("shows HTML as text, but for tags that only change a letter's look", () => {
    const html = dom(renderMarkdown('H<sub>2</sub>O <b>b</b> <div onclick="x">d</div>\n\n<table><tr><td>x</table>'));
    expect(html.querySelector("sub")?.textContent).toBe("2");
    expect(html.querySelector("div,table")).toBeNull();
    expect(html.textContent).toContain('<div onclick="x">');
  });

  // Facts of what browsers run, in the shapes that the usual cheat sheets list.
  const HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='java&#10;script:alert(1)'>x</a>",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<form action=/api/chat><input name=message><button formaction=javascript:alert(1)>x</button></form>",
    "<style>*{background:url(https://evil.test)}</style>",
    "<p style='background:url(https://evil.test)' id=app name=body class='button primary'>x</p>",
    "<base href=https://evil.test/>",
    "<meta http-equiv=refresh content='0;url=https://evil.test'>",
    "<link rel=stylesheet href=https://evil.test/x.css>",
    "<object data=x></object><embed src=x><video src=https://evil.test autoplay></video>",
    "<img src='https://evil.test/x.png' srcset='https://evil.test/y.png 2x'>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<details open ontoggle=alert(1)>x</details>",
    "<template><script>alert(1)</script></template>",
    "[x](<javascript:alert(1)>)",
    '[x](https://ok.test "\\"><img src=x onerror=alert(1)>")',
    '![x"onerror="alert(1)](https://evil.test/x)',
    "```\"><img src=x onerror=alert(1)>\ncode\n```",
    "[x]: javascript:alert(1)\n\n[x]",
    "<https://ok.test/\"onmouseover=alert(1)>",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <script>x</script> |",
  ];

  function harmless(html: string): void {
    const root = dom(html);
    for (const element of root.querySelectorAll("*")) {
      expect(element.tagName).toMatch(/^(P|BR|HR|H[1-6]|STRONG|B|EM|I|DEL|S|U|MARK|SUB|SUP|KBD|CODE|PRE|BLOCKQUOTE|UL|OL|LI|TABLE|THEAD|TBODY|TR|TH|TD|A|IMG|SPAN|DIV)$/);
      for (const { name, value } of element.attributes) {
        expect(["href", "title", "src", "alt", "class", "align", "start", "target", "rel"]).toContain(name);
        if (name === "href") expect(value).toMatch(/^(https?:\/\/|mailto:)/i);
        if (name === "src") expect(value).toMatch(/^data:image\//);
        if (name === "class") expect(value).not.toContain("button");
      }
    }
  }

  it.each(HOSTILE)("neither runs nor loads %j in an answer", (source) => {
    harmless(renderMarkdown(source));
    for (let cut = 1; cut < source.length; cut++) {
      for (const block of new MarkdownBlocks().update(source.slice(0, cut), false)) {
        if (block.kind === "html") harmless(block.html);
      }
    }
  });

  it.each(HOSTILE)("neither runs nor loads %j even as HTML", (source) => {
    harmless(sanitize(source));
  });
});
