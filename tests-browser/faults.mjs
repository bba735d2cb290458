// What can be wrong with a page, found inside the browser. Called by report.mjs on the report and on damaged copies.

/** Text, charts and overflow of the loaded document: a list of faults, empty for a sound page. Runs in the page. */
export function faultsInPage() {
  const faults = [];
  const name = (element) => {
    const text = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${element.tagName.toLowerCase()} class="${element.getAttribute("class") || ""}"> "${text}"`;
  };
  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });

  // Colours, as the browser itself resolves them, whatever the notation.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const background = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), dark ? [18, 18, 18] : [255, 255, 255]);
  };

  // WCAG 2.2, 1.4.3: 4.5 to 1, and 3 to 1 for large letters.
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !visible(element) || element.closest("caption, title, style")) continue;
    texts += 1;
    const style = getComputedStyle(element);
    const inSvg = element instanceof SVGElement;
    const under = background(inSvg ? element.ownerSVGElement.parentElement : element);
    const ink = over(rgba(inSvg ? style.fill : style.color), under);
    const [high, low] = [luminance(ink), luminance(under)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    if (ratio < needed) faults.push(`contrast ${ratio.toFixed(2)} below ${needed}: ${name(element)}`);
    const drawn = inSvg ? element.getBoundingClientRect().height : size;
    if (drawn < 9) faults.push(`letters of ${drawn.toFixed(1)} px: ${name(element)}`);
  }
  if (texts < 20) faults.push(`only ${texts} pieces of text`);

  // Nothing reaches out of the screen but inside a box that scrolls by itself.
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    faults.push(`horizontal overflow: ${document.documentElement.scrollWidth} px in ${width}`);
  }
  const scrolls = (element) => {
    for (let e = element.parentElement; e && e !== document.body; e = e.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(e).overflowX)) return true;
    }
    return false;
  };
  for (const element of document.body.querySelectorAll("*")) {
    if (!visible(element) || element.closest("caption") || scrolls(element)) continue;
    const box = element.getBoundingClientRect();
    if (box.width > 0 && (box.right > width + 1 || box.left < -1)) {
      faults.push(`out of the screen (${box.left.toFixed(0)} to ${box.right.toFixed(0)} of ${width}): ${name(element)}`);
    }
  }

  // Axis texts neither overlap each other nor leave the drawing.
  for (const svg of [...document.querySelectorAll(".chart > svg")].filter(visible)) {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map((text) => [text, text.getBoundingClientRect()]);
    for (const [text, box] of boxes) {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1) {
        faults.push(`outside of its chart: ${name(text)}`);
      }
    }
    boxes.forEach(([text, a], i) => {
      for (const [other, b] of boxes.slice(i + 1)) {
        if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) {
          faults.push(`overlap in a chart: ${name(text)} and ${name(other)}`);
        }
      }
    });
  }

  // Curves that are seen: at least one line of many points in every chart.
  const charts = [...document.querySelectorAll(".chart > svg")].filter(visible);
  if (charts.length < 2) faults.push(`${charts.length} charts, not one for each of the two stages`);
  for (const svg of charts) {
    const points = [...svg.querySelectorAll("path.series")].map((path) => path.getAttribute("d").split("L").length);
    if (Math.max(0, ...points) < 5) faults.push(`a chart without a curve: ${svg.getAttribute("aria-label")}`);
    if (!svg.getAttribute("aria-label")) faults.push("a chart without a label");
  }

  for (const prompt of document.querySelectorAll(".prompt")) {
    const next = prompt.nextSibling?.textContent ?? "";
    if (/[.?!]$/.test(prompt.textContent) && /^\S/.test(next)) faults.push(`an answer runs on: ${name(prompt)}`);
  }
  // What a model says in Arabic or Hebrew has its full stops where they belong.
  for (const said of document.querySelectorAll("blockquote, .answers p")) {
    if (getComputedStyle(said).unicodeBidi !== "plaintext") faults.push(`not in its own direction: ${name(said)}`);
  }
  for (const link of document.querySelectorAll("a[href^='#']")) {
    if (!document.getElementById(link.getAttribute("href").slice(1))) faults.push(`a link to nowhere: ${name(link)}`);
  }
  if (document.querySelectorAll("h1").length !== 1) faults.push("not exactly one h1");
  for (const node of document.body.querySelectorAll("dd, td")) {
    if (/\b(NaN|undefined|Infinity)\b/.test(node.textContent)) faults.push(`not a number: ${name(node)}`);
  }
  return faults;
}
