// The pages: index.html, admin.html and their hashed assets in dist/. The server sends `default-src 'self'` without `unsafe-inline`,
// so nothing may be inlined: no asset as data: script or style, no module-preload polyfill in the HTML.
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

/** KaTeX names each font in three formats; every browser that runs this page reads the first. */
const oneFontFormat = {
  name: "one-font-format",
  enforce: "pre" as const,
  transform(code: string, id: string): string | null {
    return id.endsWith("katex.min.css") ? code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("[a-z]+"\)/g, "") : null;
  },
};

// Where `npm run dev` finds the server. Host stays the page's own, so that Origin and Host agree and the server's
// same-origin rule for cookies holds in development too.
const server = process.env["CHATSERVER_URL"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [svelte(), oneFontFormat],
  // Without it vitest resolves Svelte's server build, which mounts nothing.
  resolve: process.env["VITEST"] ? { conditions: ["browser"] } : {},
  build: {
    outDir: "dist",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    reportCompressedSize: true,
    rolldownOptions: { input: ["index.html", "admin.html"] },
  },
  worker: { format: "es" },
  server: {
    proxy: {
      "/api": { target: server, changeOrigin: false },
      "/health": { target: server, changeOrigin: false },
    },
  },
  test: {
    environment: "jsdom",
    setupFiles: ["src/lib/__tests__/setup.ts"],
    include: ["src/**/*.test.ts"],
    restoreMocks: true,
    // The properties take seconds, and more on a machine that does other things beside.
    testTimeout: 60_000,
    // One line a file, and all of what failed.
    reporters: [["default", { summary: false }]],
  },
});
