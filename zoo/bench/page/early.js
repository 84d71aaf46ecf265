/* Runs before anything is drawn: what needs a script has its room, and the reader's colours are there, from the start. */
"use strict";
const root = document.documentElement;

function kept(value) {
  try { // a browser may forbid a file to keep anything
    if (value === undefined) return localStorage.getItem("inkzoo-theme");
    localStorage.setItem("inkzoo-theme", value);
  } catch { /* then it holds until the page is closed */ }
  return value;
}

function setTheme(value) {
  if (value === "light" || value === "dark") root.dataset.theme = value;
  else delete root.dataset.theme;
}

root.classList.add("scripted");
setTheme(kept());
