// The drawing: data from Python, places included; colours from the style sheet, so that there is one palette.
const data = JSON.parse(document.getElementById("data").textContent);
const stage = document.getElementById("graph");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const manyEdges = data.edges.length > 80;
const font = Object.fromEntries(data.nodes.map(node => [node.id, node.font]));
const small = 10; // pixels; names below that appear as one zooms in
const edgeFont = edge => Math.min(font[edge.source], font[edge.target]);

function palette() {
  const style = getComputedStyle(document.documentElement);
  return name => style.getPropertyValue(`--${name}`).trim();
}

function look() {
  const colour = palette();
  const family = getComputedStyle(document.body).fontFamily;
  const node = kind => ({ "background-color": colour(kind), color: colour(`${kind}-ink`), "border-color": colour(`${kind}-line`) });
  return [
    { selector: "node", style: {
      label: "data(lines)", width: "data(width)", height: "data(height)", shape: "round-rectangle", "corner-radius": 9,
      "font-family": family, "font-size": "data(font)", "line-height": 1.2, "text-wrap": "wrap", "text-max-width": 400,
      "text-valign": "center", "text-halign": "center", "border-width": 1, "overlay-opacity": 0, "z-index": 2 } },
    ...["s", "new", "old", "near", "far", "beyond"].map(kind => ({ selector: `node.${kind}`, style: node(kind) })),
    { selector: "node.small", style: { "border-width": 0.6, "corner-radius": 3, "min-zoomed-font-size": 8, "z-index": 1 } },
    { selector: "node.s", style: { shape: "cut-rectangle", "corner-radius": 7, "font-weight": 600 } },
    { selector: "node.new", style: { "font-weight": 600, "border-width": 4, "border-style": "double", "border-color": colour("page"), "outline-width": 2, "outline-color": colour("new-line"), "outline-offset": 0 } },
    { selector: "node.old", style: { shape: "rectangle", "font-weight": 600, "border-width": 1.6, "border-style": "dashed" } },
    { selector: "node.beyond", style: { "border-style": "dotted" } },
    { selector: "edge", style: {
      width: 1.2, "line-color": colour("edge"), "curve-style": "bezier", "control-point-step-size": 44,
      "target-arrow-shape": "triangle", "target-arrow-color": colour("edge"), "arrow-scale": 0.8,
      label: manyEdges ? "" : "data(short)", "font-family": family, "font-size": 10.5, color: colour("edge-ink"),
      "text-rotation": "autorotate", "text-background-color": colour("page"), "text-background-opacity": 0.9,
      "text-background-padding": 2, "text-background-shape": "round-rectangle", "min-zoomed-font-size": 5,
      "text-margin-x": "data(mx)", "text-margin-y": "data(my)", "overlay-opacity": 0, "z-index": 1 } },
    { selector: "edge.faint", style: { width: 0.5, "arrow-scale": 0.35, opacity: 0.4, "font-size": "data(font)", "z-index": 0 } },
    { selector: "edge:loop", style: {
      "loop-direction": edge => `${edge.data("turn") || 0}rad`, "loop-sweep": "-45deg", "text-rotation": "none",
      "control-point-step-size": edge => edge.data("reach") || 44 } },
    { selector: "edge.edit", style: {
      width: 4.5, "line-color": colour("new-line"), "target-arrow-color": colour("new-line"), "arrow-scale": 1.1,
      label: "data(text)", color: colour("new-line"), "font-weight": 700, "font-size": manyEdges ? 22 : 12.5, "z-index": 3 } },
    { selector: "edge.old", style: {
      width: 2, "line-style": "dashed", "line-dash-pattern": [7, 5], "line-color": colour("old-line"), label: "data(text)",
      "target-arrow-color": colour("old-line"), color: colour("old-ink"), "font-size": manyEdges ? 20 : 11.5, "text-rotation": "none", "z-index": 3 } },
    { selector: ".dim", style: { opacity: 0.22 } },
    { selector: "edge.lit", style: { label: "data(text)", width: 2.2, "line-color": colour("accent"), "target-arrow-color": colour("accent"), color: colour("ink"), "z-index": 4 } },
    { selector: "edge.edit.lit", style: { width: 4.5, "line-color": colour("new-line"), "target-arrow-color": colour("new-line"), color: colour("new-line") } },
    { selector: "edge.old.lit", style: { "line-color": colour("old-line"), "target-arrow-color": colour("old-line"), color: colour("old-ink") } },
    { selector: "edge.faint.lit", style: { width: 0.9, opacity: 1 } },
    { selector: "node.small.named", style: { "font-size": node => Math.max(node.data("font"), 12 / cy.zoom()), "min-zoomed-font-size": 0, "text-background-color": colour("page"), "text-background-opacity": 0.9, "text-background-padding": 2, color: colour("ink"), "z-index": 6 } },
    { selector: "node.hit, node.chosen", style: { "outline-width": 2.5, "outline-color": colour("accent"), "outline-offset": 2 } },
    { selector: "node.small.hit, node.small.chosen", style: { "outline-width": 0.8, "outline-offset": 0.6 } },
    { selector: "node.focus", style: { "outline-width": 3, "outline-color": colour("focus"), "outline-offset": 3, "z-index": 5 } },
  ];
}

const cy = cytoscape({
  container: stage,
  elements: {
    nodes: data.nodes.map(node => ({ data: node, position: { x: node.x, y: node.y }, classes: node.kind + (node.font < small ? " small" : "") })),
    edges: data.edges.map(edge => ({ data: { ...edge, mx: 0, my: 0, short: edge.text, font: edgeFont(edge) }, classes: edge.role + (edgeFont(edge) < small ? " faint" : "") })),
  },
  style: look(),
  layout: { name: "preset" },
  minZoom: 0.05, maxZoom: 5, boxSelectionEnabled: false, autounselectify: true,
});

function fit() {
  cy.fit(undefined, 36);
  if (cy.zoom() > 1.25) { cy.zoom(1.25); cy.center(); }
}

// At first the ends and what is next to them can be read, though outer hops may lie outside; on a phone, o* can.
function start() {
  fit();
  const inner = cy.nodes().not(".small"), ends = cy.nodes(".s, .new"), phone = innerWidth < 600;
  if (!ends.length || (inner.length === cy.nodes().length && !phone)) return;
  const room = nodes => { const box = nodes.boundingBox(); return 0.95 * Math.min(cy.width() / box.w, cy.height() / box.h); };
  const readable = 9.5 / Math.min(...inner.map(node => node.data("font")));
  if (phone && readable > cy.zoom()) {
    cy.zoom(readable);
    cy.center(cy.nodes(".new").length ? cy.nodes(".new") : ends);
    return;
  }
  const middle = room(inner) < 0.9 * readable ? ends : inner, zoom = Math.min(room(middle), readable);
  if (zoom > cy.zoom()) { cy.zoom(zoom); cy.center(middle); }
}

function fly(target) {
  touched = true;
  if (still.matches) { if (target.zoom) cy.zoom(target.zoom); if (target.center) cy.center(target.center.eles); } else { cy.stop(); cy.animate(target, { duration: 180 }); }
}

function zoomBy(factor) {
  touched = true;
  const middle = { x: cy.width() / 2, y: cy.height() / 2 };
  cy.zoom({ level: cy.zoom() * factor, renderedPosition: middle });
}

function restyle() { cy.style(look()); spread(); }

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
addEventListener("beforeprint", () => { document.documentElement.classList.add("light"); restyle(); cy.resize(); fit(); });
addEventListener("afterprint", () => { document.documentElement.classList.remove("light"); restyle(); cy.resize(); fit(); });
let touched = false; // until the reader moves it, the picture follows the window
cy.on("tapdrag scrollzoom dragpan", () => { touched = true; });
cy.on("resize", () => { if (!touched) start(); });
cy.on("zoom", () => { cy.nodes(".named").updateStyle(); });
cy.on("dragfree", "node", () => { turnLoops(); spread(); });
turnLoops();
spread();
start();
