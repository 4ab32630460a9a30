// Keeps the run pages honest while htmx renews them: says when the server is gone, and does not
// pull text away from under a selection. What is on the page comes from the server, always.
"use strict";

const banner = document.getElementById("connection");

function warn(text) {
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = text === "";
}

document.addEventListener("htmx:sendError", () =>
  warn("The server does not answer. What you see may be old; this page keeps trying."));
document.addEventListener("htmx:responseError", (event) =>
  warn(event.detail.xhr.status === 401
    ? "This session has ended. Open the address that bessemer login prints in the terminal."
    : `The server answered ${event.detail.xhr.status}. What you see may be old.`));
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) warn("");
});

// What a page will need is only known later: it loads again, unless a question on it is open.
if (document.querySelector("[data-reload]")) {
  setInterval(() => document.querySelector(".sure[open]") || location.reload(), 2000);
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const selection = window.getSelection();
  const selected = selection && !selection.isCollapsed && selection.containsNode(event.detail.target, true);
  if (selected) event.detail.shouldSwap = false;
});
