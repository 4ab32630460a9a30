// Buttons that copy the text beside them. Without this script the text is there all the same.
"use strict";

(() => {
  const said = document.getElementById("copying-said");
  const SHOWN_MS = 2000;

  async function copy(button) {
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

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
})();
