import { mount } from "svelte";

import "./app.css";
import App from "./components/App.svelte";
import { speak } from "./lib/language.ts";
import { showTheme } from "./lib/preferences.ts";

showTheme();
await speak();
mount(App, { target: document.getElementById("app")! });
