// Texts on a page whose contrast is below that of WCAG 2 AA: [text, ratio] of each.
(() => {
  const parts = color => color.match(/[\d.]+/g).map(Number), alpha = color => parts(color)[3] ?? 1;
  const over = (top, under, share) => under.map((part, i) => share * parts(top)[i] + (1 - share) * part);
  const light = rgb => rgb.map(part => part / 255).map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [.2126, .7152, .0722][i], 0);
  const faint = [];
  for (const one of document.body.querySelectorAll("*")) {
    const own = [...one.childNodes].filter(node => node.nodeType === 3).map(node => node.textContent.trim()).join("");
    const { width, height } = one.getBoundingClientRect();
    if (!own || width < 2 || height < 2 || one.closest("svg, script, style") || !one.checkVisibility({ visibilityProperty: true })) continue;
    const above = [];
    for (let at = one; at; at = at.parentElement) above.unshift(getComputedStyle(at));
    const ground = above.reduce((rgb, style) => over(style.backgroundColor, rgb, alpha(style.backgroundColor)), [255, 255, 255]);
    const style = above.at(-1), size = parseFloat(style.fontSize);
    const share = above.reduce((all, style) => all * style.opacity, 1) * alpha(style.color);
    const [dark, bright] = [light(over(style.color, ground, share)), light(ground)].sort((a, b) => a - b);
    const ratio = (bright + .05) / (dark + .05);
    if (ratio < (size >= 24 || (size >= 18.66 && style.fontWeight >= 600) ? 3 : 4.5)) faint.push([own.slice(0, 60), ratio]);
  }
  return faint;
})()
