"use strict";
// Texts come from people and models: they are only ever set as text, never as markup.
const byId = (id) => document.getElementById(id);
const FIELDS = ["subject", "prompt", "target_new", "target_true", "relation", "subject_id", "target_new_id", "language"];
const UNSPACED = /[\u0e00-\u0eff\u3005-\u30ff\u3400-\u9fff]$/; // ends in a script without spaces, as Chinese is
let state = null, busy = false, shown = null, clock = 0;

function make(tag, options = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...inside.filter((part) => part !== null && part !== undefined));
  return made;
}

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw { message: "The server does not answer. Is kg-edit serve still running?", fields: {}, notes: [] };
  }
  const found = await answer.json().catch(() => ({ message: `The server answered ${answer.status}.`, fields: {}, notes: [] }));
  if (!answer.ok) throw found;
  return found;
}

// ---- the form

function addProbe(prompt = "", answer = "") {
  const list = byId("probes"), number = ++addProbe.count;
  const text = make("textarea", { id: `probe-${number}`, value: prompt, rows: 1, autocomplete: "off", maxLength: 2000, className: "probe" });
  const watched = make("input", { id: `answer-${number}`, value: answer, autocomplete: "off", maxLength: 200, className: "watched", placeholder: "the new object" });
  const remove = make("button", { type: "button", title: "Remove this prompt" }, "×");
  const item = make("li", {},
    make("label", { htmlFor: text.id, className: "away" }, "Prompt"), text, remove,
    make("div", { className: "of" }, make("label", { htmlFor: watched.id }, "Probability of"), watched));
  text.addEventListener("input", () => grow(text)); // Enter makes the edit, as in the other fields
  text.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); byId("form").requestSubmit(); } });
  remove.setAttribute("aria-label", "Remove this prompt");
  remove.addEventListener("click", () => {
    const next = item.nextElementSibling || item.previousElementSibling;
    item.remove();
    (next ? next.querySelector(".probe") : byId("add")).focus();
    limitProbes();
  });
  list.append(item);
  grow(text);
  limitProbes();
  return text;
}
addProbe.count = 0;

// A long prompt takes as many lines as it needs.
function grow(text) {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

function limitProbes() {
  byId("add").hidden = Boolean(state) && byId("probes").children.length >= state.most_probes;
}

function wanted() {
  const body = {};
  for (const name of FIELDS) {
    const value = byId(name).value.trim();
    if (value || byId(name).required) body[name] = value;
  }
  body.on_ledger = byId("on_ledger").checked;
  body.chat = byId("chat").checked;
  body.probes = [...byId("probes").children].map((item) => {
    const probe = { prompt: item.querySelector(".probe").value };
    const answer = item.querySelector(".watched").value.trim();
    return answer ? { ...probe, answer } : probe;
  }).filter((probe) => probe.prompt.trim());
  return body;
}

function fill(edit) {
  for (const name of FIELDS) byId(name).value = edit[name] || "";
  byId("probes").replaceChildren();
  for (const probe of edit.probes || []) addProbe(probe.prompt, probe.answer || "");
  clearErrors();
  preview();
}

function preview() {
  const prompt = byId("prompt").value, at = prompt.indexOf("{}"), subject = byId("subject").value.trim();
  const line = byId("preview");
  if (at < 0 || !subject) return line.replaceChildren();
  const rest = prompt.slice(at + 2).trimEnd(), gap = UNSPACED.test(rest) ? "" : " ";
  line.replaceChildren(prompt.slice(0, at), make("b", {}, subject), rest, gap, make("i", {}, byId("target_new").value.trim() || "…"));
}

function clearErrors() {
  for (const error of document.querySelectorAll(".error")) error.textContent = "";
  for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  byId("problem").hidden = true;
}

// The API's names of fields, in a message, become the labels that they have here.
function worded(message) {
  const label = (name) => `“${document.querySelector(`label[for="${name}"]`).firstChild.textContent.trim()}”`;
  return message.replace(new RegExp(`\\b(${FIELDS.filter((name) => name.includes("_")).join("|")})\\b`, "g"), label);
}

const lines = (problem) => [problem.message, ...(problem.notes || [])].map(worded).join("\n");

function showProblem(problem) {
  let first = null;
  const rest = [];
  for (const [field, text] of Object.entries(problem.fields || {})) {
    const message = worded(text);
    const name = field.startsWith("probes") ? "probes" : field, place = byId(`${name}-error`);
    if (!place) { rest.push(`${field}: ${message}`); continue; }
    place.textContent += (place.textContent ? " · " : "") + (name === "probes" ? `${field}: ${message}` : message);
    const input = byId(name);
    if (input && input.tagName === "INPUT") { input.setAttribute("aria-invalid", "true"); first = first || input; }
  }
  if (first && first.closest("details")) first.closest("details").open = true;
  const box = byId("problem"), whole = first || byId("probes-error").textContent ? rest : [lines(problem)];
  box.textContent = whole.join("\n");
  box.hidden = !whole.length;
  report(whole.length ? "The edit was not made." : "The edit was not made: see the marked fields.");
  if (first) first.focus();
}

// ---- the results

function report(text, kind = "") {
  const line = byId("status");
  line.className = kind;
  line.replaceChildren(...(Array.isArray(text) ? text : [text]));
}

function setBusy(on) {
  busy = on;
  byId("go").setAttribute("aria-disabled", String(on));
  byId("results").setAttribute("aria-busy", String(on));
  clearInterval(clock);
  if (!on) return;
  const start = Date.now();
  report("Making the edit …", "busy");
  clock = setInterval(() => { // the eye sees seconds pass; a screen reader hears it once
    const seconds = Math.round((Date.now() - start) / 1000);
    byId("go").textContent = `Making the edit … ${seconds} s`;
  }, 1000);
}

function percent(value) {
  if (value > 0 && value < 0.0001) return "< 0.01 %";
  const number = 100 * value;
  return `${number.toFixed(number < 1 ? 2 : 1)} %`;
}

function chance(value, kind) {
  const fill = make("span");
  fill.style.width = `${Math.max(0, Math.min(100, 100 * value))}%`;
  return make("td", { className: kind }, make("div", { className: "chance" },
    make("div", { className: "track", ariaHidden: "true" }, fill), make("span", { className: "number" }, percent(value))));
}

// success: whether the edited model generates the new object; null for a prompt that is not the edit's own
function outcome(found, success) {
  const heading = make("h3", {}, make("span", { className: `badge ${found.kind}` }, found.kind === "edit" ? "the edit" : "prompt"), found.prompt,
    found.after_line_break ? make("small", { className: "led" }, " asked after a line break: the first token is an attention sink") : null);
  const text = (kind, words, generated) => make("div", { className: kind }, make("span", {}, words), make("p", { dir: "auto" }, generated || "(nothing)"));
  const same = found.before === found.after;
  const rows = found.chances.map((one) => make("tr", {}, make("th", { scope: "row", dir: "auto" }, one.candidate), chance(one.before, "before"), chance(one.after, "after")));
  const head = ["Probability of", "before", "after"].map((name) => make("th", { scope: "col" }, name));
  const table = make("table", { className: "chances" }, make("colgroup", {}, make("col"), make("col"), make("col")),
    make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  return make("article", { className: "outcome" }, heading,
    make("div", { className: "pair" }, text("before", "before", found.before), text(`after${same ? " same" : ""}${success === null ? "" : success ? " success" : " failed"}`, same ? "after: the same" : "after", found.after)), table);
}

function pairs(list, values) {
  const rows = Object.entries(values).flatMap(([name, value]) => [
    make("dt", {}, name.replaceAll("_", " ")),
    make("dd", {}, value !== null && typeof value === "object" ? JSON.stringify(value) : String(value)),
  ]);
  list.replaceChildren(...rows);
}

function showAnswer(found) {
  shown = found;
  const own = found.outcomes[0], seconds = `in ${found.seconds.toFixed(1)} s`;
  const quoted = (text) => make("q", { dir: "auto" }, text || "");
  const stop = /[.!?]\s*$/.test(own.after || "") ? "" : "."; // the quoted text may end the sentence itself
  const base = !state.ledger ? "" : found.on_ledger ? " Made on the model with the ledger’s edits." : " Made on the unedited model, without the ledger’s edits.";
  report(found.success
    ? ["Done ", seconds, ". Before the edit, the model generated ", quoted(own.before), "; now it generates ", quoted(own.after), stop, base]
    : ["Made ", seconds, ", but the edit failed: the model generates ", quoted(own.after), stop, base], "done");
  byId("outcomes").replaceChildren(...found.outcomes.map((one) => outcome(one, one.kind === "edit" ? found.success : null)));
  byId("add-edit").hidden = !state.ledger;
  byId("add-edit").dataset.force = "no";
  byId("add-edit").textContent = "Add to the ledger";
  byId("draw").hidden = !found.subgraph;
  byId("draw").setAttribute("aria-expanded", "false");
  byId("draw").textContent = "Show the subgraph";
  byId("drawing").hidden = true;
  byId("drawing").replaceChildren();
  byId("no-subgraph").textContent = found.no_subgraph ? `No subgraph: ${found.no_subgraph}` : found.alone || "";
  pairs(byId("record"), { patch: found.patch, on_the_ledger: found.on_ledger ? "yes" : "no", ...found.record });
  byId("answer").hidden = false;
  if (matchMedia("(max-width: 900px)").matches) byId("results").scrollIntoView();
}

async function tryIt(event) {
  event.preventDefault();
  if (busy) return;
  clearErrors();
  setBusy(true);
  byId("answer").hidden = true;
  try {
    const found = await ask("api/try", wanted());
    setBusy(false);
    showAnswer(found);
  } catch (problem) {
    setBusy(false);
    showProblem(problem);
  }
  byId("go").textContent = "Make the edit";
}

function draw() {
  const place = byId("drawing"), open = place.hidden;
  if (open && !place.children.length) {
    const path = `api/tries/${encodeURIComponent(shown.id)}/subgraph`;
    const frame = make("iframe", { src: path, title: `Subgraph of: ${shown.fact}` });
    frame.setAttribute("sandbox", "allow-scripts allow-popups allow-popups-to-escape-sandbox");
    place.append(frame, make("a", { href: path, target: "_blank", rel: "noopener" }, "Open the subgraph in a new tab"));
  }
  place.hidden = !open;
  byId("draw").setAttribute("aria-expanded", String(open));
  byId("draw").textContent = open ? "Hide the subgraph" : "Show the subgraph";
  if (open) place.scrollIntoView({ block: "nearest" });
}

// ---- the ledger

function entry(found) {
  const cell = (label, ...inside) => make("td", { "data-label": label }, ...inside);
  const conflicts = found.conflicts.map((text) => make("span", { className: "conflict" }, text));
  const fact = make("td", { className: "fact", dir: "auto" }, `${found.fact} `, make("span", { className: "target" }, found.target), ...conflicts);
  return make("tr", { className: found.state }, make("td", { className: "name", title: found.name }, found.name), fact, cell("Method", found.method),
    cell("Size", found.norm === null ? "–" : found.norm.toPrecision(3)), cell("Added", found.time.replace("T", " ").replace("+00:00", "")), cell("State", found.state), make("td", {}, removal(found)));
}

function removal(found) {
  if (found.state !== "active") return null;
  const button = make("button", { type: "button", className: "quiet" }, "Remove");
  button.setAttribute("aria-label", `Remove ${found.name}`);
  button.addEventListener("click", () => changeLedger(button, "remove", { name: found.name }, `${found.name}: removed.`));
  return button;
}

async function changeLedger(button, action, body, message) {
  if (busy) return;
  busy = true;
  button.setAttribute("aria-disabled", "true");
  byId("ledger-error").textContent = "";
  const start = Date.now();
  byId("ledger-status").textContent = "Changing the ledger …";
  const ticks = setInterval(() => { // a removal may compute other edits again, which takes as long as making them
    const seconds = Math.round((Date.now() - start) / 1000);
    byId("ledger-status").textContent = `Changing the ledger … ${seconds} s; edits that were made on top of this one are computed again`;
  }, 1000);
  try {
    showLedger(await ask(`api/ledger/${action}`, body), message);
    byId("ledger").focus({ preventScroll: true }); // the button may be gone
  } catch (problem) {
    byId("ledger-status").textContent = "Nothing was changed.";
    byId("ledger-error").textContent = lines(problem);
  } finally {
    clearInterval(ticks);
    busy = false;
    button.removeAttribute("aria-disabled");
  }
}

function showLedger(found, message) {
  byId("ledger-folder").textContent = found.folder;
  const count = (number) => `${number} edit${number === 1 ? "" : "s"}`;
  byId("ledger-status").textContent = message || (found.edits.length ? `${count(found.active)} active.` : "The ledger has no edits yet.");
  byId("entries").hidden = !found.edits.length;
  byId("entries").tBodies[0].replaceChildren(...found.edits.map(entry));
  const last = found.last_event, undo = byId("undo");
  undo.hidden = !last;
  undo.textContent = last ? `Undo ${last.what}` : "";
  undo.onclick = () => changeLedger(undo, "undo", { event: last.number }, `Undone: ${last.what}.`);
  byId("ledger-error").textContent = "";
  byId("active").textContent = count(found.active);
  byId("on-ledger-field").hidden = !found.active;
  if (!found.active) byId("on_ledger").checked = false;
}

async function addEdit() {
  if (busy) return;
  const button = byId("add-edit"), force = button.dataset.force === "yes";
  byId("problem").hidden = true;
  busy = true; // a second click while the first is on its way does nothing
  button.setAttribute("aria-disabled", "true");
  try {
    showLedger(await ask("api/ledger", { id: shown.id, force }), `${shown.fact}: added.`);
    button.hidden = true;
    byId("ledger").focus();
  } catch (problem) {
    byId("problem").textContent = lines(problem);
    byId("problem").hidden = false;
    if (problem.kind !== "DisablingEditError" || force) return;
    button.dataset.force = "yes";
    button.textContent = "Add it anyway";
  } finally {
    busy = false;
    button.removeAttribute("aria-disabled");
  }
}

async function start() {
  try {
    state = await ask("api/state");
  } catch (problem) {
    byId("about").textContent = problem.message;
    return;
  }
  const about = [`${state.model} (${state.size})`, `${state.method}: ${state.about}`];
  if (state.graph) about.push(`graph: ${state.graph}`);
  byId("about").textContent = about.join(" · ");
  pairs(byId("settings"), state.settings);
  byId("example").hidden = !state.example;
  byId("chat-field").hidden = !state.chat;
  if (state.ledger) {
    byId("ledger").hidden = false;
    await ask("api/ledger").then(showLedger, (problem) => { byId("ledger-status").textContent = problem.message; });
  }
}

byId("form").addEventListener("submit", tryIt);
byId("add").addEventListener("click", () => addProbe().focus());
byId("example").addEventListener("click", () => fill(state.example));
byId("draw").addEventListener("click", draw);
byId("add-edit").addEventListener("click", addEdit);
for (const name of ["subject", "prompt", "target_new"]) byId(name).addEventListener("input", preview);
addEventListener("resize", () => document.querySelectorAll(".probe").forEach(grow));
addProbe();
start();
