// Buttons that copy the text beside them. Without this script the text is there all the same.
// Who adds texts later says so with the event `copying`; htmx says it by itself.
"use strict";

(() => {
  const SHOWN_MS = 2000;

  async function copy(button) {
    const said = document.getElementById("copying-said");
    const code = button.closest(".copied-text").querySelector("code");
    const label = button.firstChild;
    try {
      await navigator.clipboard.writeText(code.textContent);
      label.textContent = "Copied";
      said.textContent = `Copied as ${code.dataset.name}: ${code.dataset.title}`;
    } catch {
      // No clipboard outside https and localhost: select it, and the keys of the browser do it.
      getSelection().selectAllChildren(code);
      label.textContent = "Selected";
      said.textContent = "Selected; copy it with the keys of your browser";
    }
    setTimeout(() => { label.textContent = "Copy"; }, SHOWN_MS);
  }

  function offer() {
    for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  document.addEventListener("copying", offer);
  document.addEventListener("htmx:afterSwap", offer);
  offer();
})();
