// The chat: streams an answer, stops it, and keeps every conversation in this browser.
// A conversation is {id, title, updated, turns: [{role, text, model, state, meta, fault}]} in
// localStorage, named by `?c=` in the address; `state` is streaming, done, stopped, cut or failed.
"use strict";

(() => {
  const KEY = "bessemer.talk.";
  const SETTINGS = "bessemer.settings";
  const SAVE_MS = 250;
  const MODELS_MS = 2000;
  const ENDED = "This session has ended. Open the address that bessemer login prints in the terminal.";
  const $ = (id) => document.getElementById(id);
  const turnsBox = $("turns"), opening = $("opening"), prompt = $("prompt"), model = $("model");
  let talk = load(new URLSearchParams(location.search).get("c"));
  let wanted = null; // a model to choose as soon as it is there
  let running = null; // {controller, turn, element} of the answer under way
  let states = new Map([...model.options].map((option) => [option.value, { state: option.dataset.state }]));

  // --- keeping -----------------------------------------------------------------------------

  function load(id) {
    const kept = id && localStorage.getItem(KEY + id);
    return kept ? JSON.parse(kept) : { id: null, title: "", updated: 0, turns: [] };
  }

  function save() {
    talk.updated = Date.now();
    try {
      localStorage.setItem(KEY + talk.id, JSON.stringify(talk));
    } catch {
      say("This browser's storage is full: the conversation is not kept. Delete old ones.");
    }
  }

  function kept() {
    return Object.keys(localStorage).filter((key) => key.startsWith(KEY))
      .map((key) => JSON.parse(localStorage.getItem(key)))
      .sort((a, b) => b.updated - a.updated);
  }

  function begin(text) {
    talk.id = crypto.randomUUID();
    talk.title = text.trim().replace(/\s+/g, " ").slice(0, 80);
    history.pushState(null, "", `/chat?c=${talk.id}`);
  }

  // --- showing -----------------------------------------------------------------------------

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function button(label, act) {
    const element = make("button", "plain", label);
    element.type = "button";
    element.addEventListener("click", act);
    return element;
  }

  // Plain text, except that fenced and back-ticked code looks like code. Never HTML.
  function paint(box, text) {
    const pieces = [];
    let from = 0;
    for (const fence of text.matchAll(/^```([^\n`]*)\n([\s\S]*?)(?:^```[^\S\n]*\n?|(?![\s\S]))/gm)) {
      pieces.push(...inline(between(text.slice(from, fence.index))), block(fence[1].trim(), fence[2]));
      from = fence.index + fence[0].length;
    }
    box.replaceChildren(...pieces, ...inline(from ? between(text.slice(from)) : text));
  }

  // Beside a block its own margin stands for the empty lines.
  function between(text) {
    return text.replace(/^\n+|\n+$/g, "");
  }

  function inline(text) {
    return text.split(/`([^`\n]+)`/).map((piece, at) =>
      at % 2 ? make("code", "", piece) : document.createTextNode(piece));
  }

  function block(language, text) {
    const box = make("pre");
    box.tabIndex = 0;
    if (language) box.dataset.language = language;
    box.append(make("code", "", text.replace(/\n$/, "")));
    return box;
  }

  function meta(turn) {
    const facts = turn.meta || {};
    const words = [turn.model];
    if (facts.tokens !== undefined) words.push(`${facts.tokens} token${facts.tokens === 1 ? "" : "s"}`);
    if (facts.tokens_s) words.push(`${facts.tokens_s.toFixed(facts.tokens_s < 100 ? 1 : 0)} tokens/s`);
    if (facts.first_s !== undefined) words.push(`first after ${facts.first_s.toFixed(2)} s`);
    if (turn.state === "stopped") words.push("stopped by you");
    if (facts.finish_reason === "length") words.push("ended at the token limit");
    return words.join(" · ");
  }

  function render(turn) {
    const item = make("article", `turn is-${turn.role}`);
    item.setAttribute("aria-label", turn.role === "user" ? "You" : "Answer");
    const body = make("div", "words");
    if (turn.role === "user") body.textContent = turn.text;
    else paint(body, turn.text);
    item.append(body);
    if (turn.role === "user") return item;
    const mine = running !== null && running.turn === turn;
    if (mine) {
      item.append(make("p", "meta is-waiting", waitingText()));
      return item;
    }
    if (turn.state === "failed") item.append(fault(turn.fault));
    if (turn.state === "cut" || turn.state === "streaming") {
      item.append(fault({ message: "Cut off when the page was left or reloaded.", next_step: "" }, "warn"));
    }
    const foot = make("p", "meta");
    foot.append(make("span", "facts", meta(turn)));
    if (turn.text) foot.append(button("Copy", () => navigator.clipboard.writeText(turn.text)));
    const retry = button(turn.state === "done" ? "Answer again" : "Try again", again);
    retry.classList.add("again"); // shown on the last answer only
    foot.append(retry);
    item.append(foot);
    return item;
  }

  function fault(problem, tone = "bad") {
    const box = make("div", `notice is-${tone}`);
    box.append(make("p", "", problem.message));
    if (problem.next_step) {
      const next = make("p", "next");
      next.append(make("span", "", "Next:"), ` ${problem.next_step}`);
      box.append(next);
    }
    return box;
  }

  function show() {
    turnsBox.replaceChildren(...(talk.turns.length ? talk.turns.map(render) : [opening]));
    list();
  }

  // Additions only, so that a screen reader says what is new and nothing else.
  function add(turn) {
    opening.remove();
    turnsBox.append(render(turn));
    toEnd();
  }

  function settle() {
    const busy = running !== null;
    const focused = document.activeElement;
    turnsBox.setAttribute("aria-busy", String(busy));
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    if (busy && focused === $("send")) $("stop").focus();
    if (!busy && focused === $("stop")) prompt.focus();
    document.title = `${talk.title || "Chat"} · Bessemer`;
  }

  function list() {
    const found = kept();
    $("no-talks").hidden = found.length > 0;
    $("talks").replaceChildren(...found.map((one) => {
      const item = make("li");
      const link = make("a", "", one.title || "Untitled");
      link.href = `/chat?c=${one.id}`;
      if (one.id === talk.id) link.setAttribute("aria-current", "true");
      const away = button("×", () => forget(one));
      away.setAttribute("aria-label", `Delete ${one.title}`);
      item.append(link, away);
      return item;
    }));
  }

  function forget(one) {
    if (!confirm(`Delete "${one.title}"? It is kept nowhere else.`)) return;
    if (one.id === talk.id && running) return say("Stop the answer first, then delete the conversation.");
    localStorage.removeItem(KEY + one.id);
    if (one.id === talk.id) location.assign("/chat");
    else list();
  }

  function say(text) {
    $("composer-fault").textContent = text;
    $("composer-fault").hidden = text === "";
  }

  function atEnd() {
    return turnsBox.scrollHeight - turnsBox.scrollTop - turnsBox.clientHeight < 60;
  }

  function toEnd() {
    turnsBox.scrollTop = turnsBox.scrollHeight;
  }

  function waitingText() {
    if (running.turn.text) return running.turn.model;
    const state = (states.get(running.turn.model) || {}).state;
    return state && state !== "ready" ? `Loading ${running.turn.model}: the first answer waits for it` : "Reading the question";
  }

  // Redraws at most once a frame, however fast tokens come.
  function repaint() {
    if (!running || running.frame) return;
    running.frame = requestAnimationFrame(() => {
      if (!running) return;
      running.frame = 0;
      const follow = atEnd();
      paint(running.element.querySelector(".words"), running.turn.text);
      running.element.querySelector(".meta").textContent = waitingText();
      if (follow) toEnd();
    });
  }

  // --- asking ------------------------------------------------------------------------------

  function messages() {
    const system = $("system").value.trim();
    const said = talk.turns.filter((turn) => turn.text && turn.state !== "streaming");
    return [...(system ? [{ role: "system", content: system }] : []),
      ...said.map((turn) => ({ role: turn.role, content: turn.text }))];
  }

  function question() {
    const body = { model: model.value, messages: messages() };
    if ($("temperature").value !== "") body.temperature = Number($("temperature").value);
    if ($("max-tokens").value !== "") body.max_tokens = Number($("max-tokens").value);
    return body;
  }

  async function ask() {
    const body = question();
    const turn = { role: "assistant", text: "", model: model.value, state: "streaming" };
    running = { controller: new AbortController(), turn, element: null, frame: 0 };
    talk.turns.push(turn);
    add(turn);
    running.element = turnsBox.lastElementChild;
    settle();
    save();
    list();
    try {
      await stream(body, running);
    } catch (error) {
      if (running.controller.signal.aborted) turn.state = "stopped";
      else if (turn.state !== "cut") fail(turn, error);
    }
    finish();
  }

  function finish() {
    const { turn, element, frame } = running;
    const follow = atEnd();
    cancelAnimationFrame(frame);
    running = null;
    element.replaceWith(render(turn));
    settle();
    save();
    if (follow) toEnd();
  }

  function fail(turn, error) {
    turn.state = "failed";
    turn.fault = error.fault || {
      message: "The connection to the server was lost.",
      next_step: "look at the terminal that runs bessemer up, then try again",
    };
  }

  async function stream(body, mine) {
    const response = await fetch("/console/chat", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: mine.controller.signal,
    });
    if (!response.ok) throw { fault: (await response.json()).error };
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", saved = 0;
    for (;;) {
      const { value, done } = await reader.read();
      const lines = (rest + (value || "")).split("\n");
      rest = lines.pop();
      for (const line of lines) take(JSON.parse(line), mine.turn);
      if (done) break;
      if (performance.now() - saved > SAVE_MS) {
        save();
        saved = performance.now();
      }
      repaint();
    }
    if (mine.turn.state === "streaming") throw {};
  }

  function take(news, turn) {
    if (news.error) throw { fault: news.error };
    if (news.text) turn.text += news.text;
    if (news.done) {
      turn.state = "done";
      turn.meta = news.done;
    }
  }

  function again() {
    talk.turns.pop();
    turnsBox.lastElementChild.remove();
    ask();
  }

  // --- from elsewhere ----------------------------------------------------------------------

  // What would be sent now, as curl, Python and CLI; the server writes them.
  async function showCode() {
    if (!model.value) return say("There is no model yet. In the terminal: bessemer pull smollm2-135m-instruct");
    const body = question(), text = prompt.value.trim();
    if (text) body.messages.push({ role: "user", content: text });
    while (body.messages.at(-1)?.role === "assistant") body.messages.pop();
    if (!body.messages.some((one) => one.role === "user")) {
      body.messages.push({ role: "user", content: document.querySelector(".example")?.textContent || "Hello" });
    }
    const response = await fetch("/console/chat/copied", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    }).catch(() => null);
    if (!response?.ok) return say(response ? (await response.json()).error.message : "The server does not answer.");
    say("");
    $("code-texts").innerHTML = await response.text(); // escaped by the server's template
    $("code-texts").querySelector("details").open = true;
    document.dispatchEvent(new Event("copying"));
    $("code").showModal();
  }

  // --- the model picker --------------------------------------------------------------------

  async function models() {
    try {
      const response = await fetch("/console/models");
      if (response.ok) {
        if ($("composer-fault").textContent === ENDED) say(""); // logged in again, in another tab
        offer((await response.json()).models);
      } else if (response.status === 401) {
        say(ENDED);
        all("ended");
      }
    } catch {
      all("unreachable");
    }
    setTimeout(models, MODELS_MS);
  }

  function all(state) {
    states = new Map([...states.keys()].map((name) => [name, { state }]));
    describe();
  }

  function offer(found) {
    const names = found.map((one) => one.name);
    const shown = [...model.options].map((option) => option.value);
    if (names.join("\n") !== shown.join("\n")) {
      const chosen = model.value;
      model.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    }
    choose();
    states = new Map(found.map((one) => [one.name, one]));
    describe();
  }

  function choose() {
    if (![...model.options].some((option) => option.value === wanted)) return;
    model.value = wanted;
    wanted = null;
  }

  function describe() {
    const one = states.get(model.value) || { state: "none" };
    const words = {
      ready: "ready",
      loading: "loading…",
      stopped: "loads at the first question",
      sleeping: "asleep: loads at the next question",
      failed: `failed: ${one.error || "see the terminal"}`,
      unreachable: "the server does not answer",
      ended: "not known: this session has ended",
      none: "no model yet: bessemer pull smollm2-135m-instruct",
    };
    const text = words[one.state] || one.state;
    const label = $("model-state");
    if (label.textContent !== text) label.textContent = text;
    label.dataset.state = one.state;
    repaint();
  }

  // --- hands on ----------------------------------------------------------------------------

  function send() {
    const text = prompt.value.trimEnd(); // an Enter before this script was there made a new line
    if (running || text === "") return;
    if (!model.value) return say("There is no model yet. In the terminal: bessemer pull smollm2-135m-instruct");
    say("");
    if (!talk.id) begin(text);
    const turn = { role: "user", text };
    talk.turns.push(turn);
    add(turn);
    prompt.value = "";
    fit();
    ask();
  }

  function fit() {
    prompt.style.height = "auto";
    prompt.style.height = `${Math.min(prompt.scrollHeight, 220)}px`;
  }

  function remember() {
    const values = Object.fromEntries(["temperature", "max-tokens", "system"].map((id) => [id, $(id).value]));
    localStorage.setItem(SETTINGS, JSON.stringify({ ...values, model: model.value }));
  }

  function recall() {
    const values = JSON.parse(localStorage.getItem(SETTINGS) || "{}");
    for (const id of ["temperature", "max-tokens", "system"]) {
      if (values[id] !== undefined) $(id).value = values[id];
    }
    wanted = new URLSearchParams(location.search).get("model") || talk.turns.at(-1)?.model || values.model;
    choose();
  }

  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  prompt.addEventListener("input", fit);
  $("as-code").addEventListener("click", showCode);
  $("stop").addEventListener("click", () => {
    running?.controller.abort();
    prompt.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") $("settings").open = false;
  });
  document.addEventListener("click", (event) => {
    if (!$("settings").contains(event.target)) $("settings").open = false;
  });
  opening.addEventListener("click", (event) => {
    if (!event.target.matches(".example")) return;
    prompt.value = event.target.textContent;
    send();
  });
  $("show-talks").addEventListener("click", () => {
    const open = $("chat").classList.toggle("shows-talks");
    $("show-talks").setAttribute("aria-expanded", String(open));
  });
  $("settings").addEventListener("change", remember);
  model.addEventListener("change", () => {
    wanted = null;
    remember();
    describe();
  });
  window.addEventListener("popstate", () => location.reload());
  window.addEventListener("storage", list);
  window.addEventListener("pagehide", () => {
    if (!running) return;
    running.turn.state = "cut";
    save();
  });

  recall();
  show();
  settle();
  toEnd();
  describe();
  models();
  fit();
  $("send").disabled = false;
})();
