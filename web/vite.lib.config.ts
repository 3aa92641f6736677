// ChatManager for other pages: one self-contained module under a name without a hash, so that
// `import { ChatManager } from "/chat-manager.js"` keeps working across releases.
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    outDir: "dist",
    emptyOutDir: false,
    target: "es2022",
    lib: { entry: "src/lib/ChatManager.ts", formats: ["es"], fileName: () => "chat-manager.js" },
  },
});
