"use strict";
// Names of edges where they are in nobody's way, and loops on the free side of their node.
const shares = [0.5, 0.42, 0.58, 0.35, 0.65, 0.28, 0.72, 0.2, 0.8];
const pen = document.createElement("canvas").getContext("2d");

// As much of a name as an edge has room for; the whole name appears on hover and selection.
function fitting(edge, room) {
  pen.font = `${edge.style("font-weight")} ${edge.numericStyle("font-size")}px ${edge.style("font-family")}`;
  const letters = [...edge.data("text")];
  let text = letters.join("");
  while (pen.measureText(text).width > room && letters.length > 4) { letters.pop(); text = `${letters.join("").trimEnd()}…`; }
  return { text, width: pen.measureText(text).width };
}

function boundsOf(node) {
  const { x, y } = node.position(), width = node.data("width") / 2 + 1, height = node.data("height") / 2 + 1;
  return { x1: x - width, y1: y - height, x2: x + width, y2: y + height };
}

// Points along the middle of a name that is centred on (x, y): near enough to a rectangle, at any angle.
function spots(x, y, angle, width, size) {
  const count = Math.max(1, Math.ceil(width / size)), points = [];
  for (let i = 0; i < count; i++) {
    const along = count > 1 ? (i / (count - 1) - 0.5) * (width - size) : 0;
    points.push([x + Math.cos(angle) * along, y + Math.sin(angle) * along]);
  }
  return points;
}

function spread() {
  const boxes = cy.nodes().map(boundsOf), taken = [];
  const rank = edge => (edge.hasClass("edit") ? 0 : edge.hasClass("old") ? 1 : 2);
  const named = cy.edges().toArray().filter(edge => edge.style("label") && !edge.isLoop()).map(edge => {
    const a = edge.sourceEndpoint(), b = edge.targetEndpoint(), bend = (edge.controlPoints() || [])[0];
    return { edge, a, b, bend, length: Math.hypot(b.x - a.x, b.y - a.y) };
  }).sort((one, other) => rank(one.edge) - rank(other.edge) || one.length - other.length);
  cy.batch(() => named.forEach(({ edge, a, b, bend, length }) => {
    const upright = edge.style("text-rotation") === "none", angle = upright ? 0 : Math.atan2(b.y - a.y, b.x - a.x);
    const shown = fitting(edge, upright ? Infinity : length - 8);
    const size = edge.numericStyle("font-size") + 3, width = shown.width + 6;
    const at = share => ["x", "y"].map(axis => bend
      ? (1 - share) ** 2 * a[axis] + 2 * share * (1 - share) * bend[axis] + share ** 2 * b[axis]
      : (1 - share) * a[axis] + share * b[axis]);
    const middle = at(0.5);
    let best = null;
    for (const share of shares) {
      if (best && Math.min(share, 1 - share) * length < width / 2) continue; // it would leave its edge
      const place = at(share), mine = spots(...place, angle, width, size);
      const cost = mine.filter(([x, y]) =>
        boxes.some(box => x > box.x1 - size / 2 && x < box.x2 + size / 2 && y > box.y1 - size / 2 && y < box.y2 + size / 2)
        || taken.some(other => Math.hypot(x - other[0], y - other[1]) < (size + other[2]) / 2)).length;
      if (!best || cost < best.cost) best = { place, mine, cost, size };
      if (!cost) break;
    }
    taken.push(...best.mine.map(([x, y]) => [x, y, best.size]));
    edge.data({ short: shown.text, mx: best.place[0] - middle[0], my: best.place[1] - middle[1] });
  }));
}

// A loop leaves where the widest gap between the node's other edges is, and reaches beyond its box.
function turnLoops() {
  cy.edges(":loop").forEach(edge => {
    const node = edge.source(), from = node.position();
    const used = node.neighborhood("node").not(node).map(other => Math.atan2(other.position("x") - from.x, from.y - other.position("y")));
    const apart = (one, other) => Math.abs(Math.atan2(Math.sin(one - other), Math.cos(one - other)));
    let best = 0, widest = -1;
    for (let step = 0; step < 24; step++) {
      const angle = step * Math.PI / 12, gap = Math.min(Math.PI, ...used.map(other => apart(angle, other)));
      if (gap > widest + 1e-9) { best = angle; widest = gap; }
    }
    const across = node.data("width") / 2 / Math.max(1e-9, Math.abs(Math.sin(best)));
    const up = node.data("height") / 2 / Math.max(1e-9, Math.abs(Math.cos(best)));
    edge.data({ turn: best, reach: (Math.min(across, up) + 3 * node.data("font")) / 1.2 });
  });
}
