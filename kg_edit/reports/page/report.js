"use strict";
// Finding and folding; without this script the page shows all the same.
const byId = (id) => document.getElementById(id);
const lines = [...document.querySelectorAll(".all tbody tr")], edits = [...document.querySelectorAll("details.edit")];

function choose() {
  const words = byId("find").value.trim().toLowerCase(), failed = byId("failed").checked;
  let shown = 0;
  lines.forEach((line, place) => {
    const found = line.textContent.toLowerCase().includes(words) && !(failed && line.dataset.success === "yes");
    line.hidden = edits[place].hidden = !found;
    shown += found;
  });
  byId("count").textContent = shown < lines.length ? `${shown} of ${lines.length}` : "";
}

function unfold() {
  const target = location.hash.startsWith("#edit-") && byId(location.hash.slice(1));
  if (!target) return;
  target.open = true;
  target.scrollIntoView();
}

if (lines.length) { // a single edit has no table of all edits
  byId("tools").hidden = lines.length < 4;
  byId("find").addEventListener("input", choose);
  byId("failed").addEventListener("change", choose);
  document.querySelector(".all").addEventListener("click", (event) => { if (event.target.closest("a")) setTimeout(unfold); });
}
byId("folds").hidden = edits.length < 2;
byId("open").addEventListener("click", () => edits.forEach((edit) => { if (!edit.hidden) edit.open = true; }));
byId("close").addEventListener("click", () => edits.forEach((edit) => { edit.open = false; }));
addEventListener("hashchange", unfold);
unfold();
