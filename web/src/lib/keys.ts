// What a combination of keys is called on this keyboard: a Mac has its own signs for them, in every language.

/** As it is written for all other keyboards, such as "Ctrl+Shift+O". */
export function keys(written: string): string {
  if (!/^(?:Mac|iPhone|iPad)/.test(navigator.platform)) return written;
  const [last, ...modifiers] = written.split("+").reverse();
  // In the order of Apple's own menus: Shift stands before Command, which takes the place of Ctrl.
  const signs = modifiers.map((name) => (/^(?:Shift|Umschalt)$/.test(name) ? "⇧" : "⌘")).join("");
  return signs + (last === "Enter" ? "↩" : last);
}
