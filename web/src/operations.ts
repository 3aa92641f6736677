import { mount } from "svelte";

import "./app.css";
import Operations from "./components/operations/Operations.svelte";
import { speak } from "./lib/language.ts";
import { showTheme } from "./lib/preferences.ts";

showTheme();
await speak();
mount(Operations, { target: document.getElementById("app")! });
