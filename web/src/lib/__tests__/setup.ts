// On CI the properties see the same examples each time; people and their machines look for new ones.
import fc from "fast-check";

if (process.env["CI"]) fc.configureGlobal({ seed: 20261121 });
