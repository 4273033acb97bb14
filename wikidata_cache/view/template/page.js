// The page around the drawing: search, selection, keyboard. Text reaches the page as text nodes only.
const byId = id => document.getElementById(id);
const tip = byId("tip"), details = byId("details"), search = byId("search"), found = byId("found");
const marks = { edit: " · new", old: " · replaced" };
let focused = null, chosen = null;

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text) { element.textContent = text; element.dir = "auto"; }
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const link = (url, text) => make("a", text, { href: url, target: "_blank", rel: "noopener noreferrer" });
const known = node => (node.data("url") ? node.id() : "no id");

// ---- hover and focus: the same words
function tipFor(element) {
  if (element.isNode()) {
    tip.replaceChildren(make("b", element.data("label")), document.createTextNode(" "), make("i", `${known(element)} · ${element.data("caption")}`));
    if (element.data("description")) tip.append(make("div", element.data("description")));
  } else {
    const ends = `${element.source().data("label")} → ${element.target().data("label")}`;
    tip.replaceChildren(make("b", element.data("label")), make("i", ` ${element.data("property")}${marks[element.data("role")] || ""}`), make("div", ends));
    if (element.data("note")) tip.append(make("div", element.data("note")));
  }
}

function showTip(element, at) {
  tipFor(element);
  tip.hidden = false;
  const x = Math.max(8, Math.min(at.x + 14, stage.clientWidth - tip.offsetWidth - 8));
  const below = at.y + 18 + tip.offsetHeight < stage.clientHeight;
  tip.style.left = `${x}px`;
  tip.style.top = `${Math.max(8, below ? at.y + 18 : at.y - tip.offsetHeight - 12)}px`;
}

// ---- selection
function connections(title, edges, other) {
  if (!edges.length) return;
  details.append(make("h3", `${title} (${edges.length})`));
  const groups = new Map();
  edges.forEach(edge => {
    const words = edge.data("label") + (marks[edge.data("role")] || "");
    groups.set(words, [...(groups.get(words) || []), edge]);
  });
  for (const [words, members] of groups) {
    const list = make("ul", "", { "aria-label": words });
    for (const edge of members) {
      const item = make("li"), go = make("button", edge[other]().data("label"), { type: "button", class: "go" });
      go.addEventListener("click", () => choose(edge[other](), true));
      item.append(go);
      if (edge.data("note")) item.append(make("span", ` ${edge.data("note")}`));
      list.append(item);
    }
    details.append(make("p", words, { class: "property" }), list);
  }
}

function describe(node) {
  details.replaceChildren(make("h2", node.data("label")));
  const meta = make("p", "", { class: "meta" });
  meta.append(node.data("url") ? link(node.data("url"), node.id()) : make("span", "no id"), document.createTextNode(` · ${node.data("caption")}`));
  details.append(meta);
  if (node.data("description")) details.append(make("p", node.data("description")));
  connections("Statements", node.outgoers("edge"), "target");
  connections("Named by", node.incomers("edge"), "source");
  details.scrollTop = 0;
}

function light(elements) {
  cy.elements().removeClass("dim lit");
  if (!elements) return;
  cy.elements().difference(elements).addClass("dim");
  elements.edges().addClass("lit");
}

// A few small nodes show their names at any zoom; more would cover one another.
function name(nodes) {
  cy.nodes(".named").removeClass("named");
  if (nodes.length <= 12) nodes.addClass("named");
}

function choose(node, moves = false) {
  cy.nodes().removeClass("chosen hit");
  chosen = focused = node;
  node.addClass("chosen");
  name(node);
  light(node.closedNeighborhood());
  describe(node);
  if (moves) reveal(node);
}

function clear() {
  chosen = null;
  cy.nodes().removeClass("chosen hit focus named");
  light(null);
  tip.hidden = true;
  search.value = "";
  find();
  // Until an entity is selected, the panel has the one that the graph is about
  describe(cy.nodes(".new, .s").sort((one, other) => other.hasClass("new") - one.hasClass("new"))[0] || cy.nodes()[0]);
  details.prepend(make("p", "Select an entity to see its statements.", { class: "empty" }));
}

function reveal(node) {
  const box = node.renderedBoundingBox();
  const inside = box.x1 > 0 && box.y1 > 0 && box.x2 < cy.width() && box.y2 < cy.height();
  const zoom = Math.max(cy.zoom(), Math.min(small, node.data("font")) < small ? 0.6 * small / node.data("font") : 0);
  if (!inside || zoom > cy.zoom()) fly({ zoom, center: { eles: node } });
}

// ---- keyboard
function focusOn(node) {
  cy.nodes().removeClass("focus");
  focused = node;
  node.addClass("focus");
  reveal(node);
  const at = node.renderedPosition();
  showTip(node, { x: at.x, y: at.y + (node.renderedHeight() / 2) - 6 });
  byId("live").textContent = tip.innerText;
}

function step(x, y) {
  if (!focused) return focusOn(cy.nodes()[0]);
  const from = focused.position();
  const nearest = (nodes, width) => {
    let best = null, least = Infinity;
    nodes.forEach(node => {
      const dx = node.position("x") - from.x, dy = node.position("y") - from.y, length = Math.hypot(dx, dy) || 1;
      const along = (dx * x + dy * y) / length;
      if (node !== focused && along > width && length / along < least) { best = node; least = length / along; }
    });
    return best;
  };
  focusOn(nearest(focused.neighborhood("node"), 0.5) || nearest(cy.nodes(), 0.6) || focused);
}

function turn(by) {
  const nodes = cy.nodes(), at = focused ? nodes.toArray().findIndex(node => node === focused) : -1;
  focusOn(nodes[(at + by + nodes.length) % nodes.length]);
}

const keys = {
  ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
  PageDown: () => turn(1), PageUp: () => turn(-1), Home: () => focusOn(cy.nodes()[0]),
  Enter: () => focused && choose(focused), " ": () => focused && choose(focused),
  "+": () => zoomBy(1.25), "=": () => zoomBy(1.25), "-": () => zoomBy(0.8), 0: fit,
};

stage.addEventListener("keydown", event => {
  if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); keys[event.key](); }
});
stage.addEventListener("focus", () => { if (stage.matches(":focus-visible")) focusOn(focused || cy.nodes()[0]); });
stage.addEventListener("blur", () => { cy.nodes().removeClass("focus"); tip.hidden = true; });
document.addEventListener("keydown", event => {
  if (event.key === "Escape") clear();
  if (event.key === "/" && document.activeElement !== search) { event.preventDefault(); search.focus(); search.select(); }
});

// ---- search
const plain = text => text.normalize("NFKD").replace(/\p{M}/gu, "").toLocaleLowerCase();

function find() {
  const wanted = plain(search.value.trim());
  const matches = element => [element.data("label"), element.id(), element.data("property") || ""].some(text => plain(text).includes(wanted));
  const nodes = wanted ? cy.nodes().filter(matches) : cy.collection();
  const edges = wanted ? cy.edges().filter(edge => [edge.data("label"), edge.data("property")].some(text => plain(text).includes(wanted))) : cy.collection();
  cy.nodes().removeClass("hit");
  nodes.addClass("hit");
  name(wanted ? nodes : chosen || nodes);
  if (wanted) { light(nodes.union(edges).union(edges.connectedNodes())); cy.nodes().not(nodes).not(edges.connectedNodes()).addClass("dim"); } else light(chosen && chosen.closedNeighborhood());
  found.textContent = wanted ? `${nodes.length} ${nodes.length === 1 ? "entity" : "entities"}, ${edges.length} statement${edges.length === 1 ? "" : "s"}` : "";
  document.querySelectorAll("#statements tbody tr").forEach(row => { row.hidden = Boolean(wanted) && !plain(row.textContent).includes(wanted); });
  return nodes;
}

search.addEventListener("input", find);
search.addEventListener("keydown", event => {
  if (event.key !== "Enter") return;
  const hits = find().toArray();
  if (hits.length) { const next = hits[(hits.indexOf(chosen) + 1) % hits.length]; choose(next, true); hits.forEach(node => node.addClass("hit")); }
});

// ---- mouse and touch
cy.on("tapstart", () => stage.focus({ preventScroll: true }));
cy.on("tap", "node", event => choose(event.target));
cy.on("tap", event => { if (event.target === cy) clear(); });
cy.on("mouseover", "node, edge", event => {
  if (event.target.isEdge()) event.target.addClass("lit");
  else event.target.connectedEdges().addClass("lit");
  stage.style.cursor = event.target.isNode() ? "pointer" : "";
  showTip(event.target, event.renderedPosition);
});
cy.on("mouseout", "node, edge", event => {
  stage.style.cursor = "";
  tip.hidden = true;
  const lit = chosen ? chosen.connectedEdges() : cy.collection();
  if (!search.value) cy.edges().not(lit).removeClass("lit");
});
cy.on("viewport", () => { if (!stage.matches(":focus-visible")) tip.hidden = true; });
byId("in").addEventListener("click", () => zoomBy(1.25));
byId("out").addEventListener("click", () => zoomBy(0.8));
byId("fit").addEventListener("click", fit);
document.querySelectorAll("#statements .go").forEach(button => button.addEventListener("click", () => {
  choose(cy.getElementById(button.dataset.node), true);
  scrollTo({ top: 0, behavior: still.matches ? "auto" : "smooth" });
}));
if (self !== top) { // inside a notebook the wheel scrolls the notebook until the graph is clicked
  cy.userZoomingEnabled(false);
  stage.addEventListener("focus", () => cy.userZoomingEnabled(true));
  stage.addEventListener("blur", () => cy.userZoomingEnabled(false));
}
clear();
