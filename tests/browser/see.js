// What is wrong with the page that is open, and what it links to; see look.py.
(async () => {
  await document.fonts.ready;
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  const frame = () => new Promise((drawn) => requestAnimationFrame(drawn));
  await frame();
  await frame();
  const moving = document.getAnimations().filter((each) => each instanceof CSSTransition);
  await Promise.all(moving.map((each) => each.finished.catch(() => null)));

  const problems = [];
  const root = document.scrollingElement;
  const width = root.clientWidth;
  const told = (element) => {
    const text = (element.textContent || element.getAttribute("src") || "").trim();
    return `<${element.localName}> "${text.replace(/\s+/g, " ").slice(0, 60)}"`;
  };
  const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflowX);
  const inABox = (element) => {
    for (let outer = element.parentElement; outer; outer = outer.parentElement) {
      if (scrolls(outer)) return outer !== root && outer !== document.body;
    }
    return false;
  };

  if (root.scrollWidth > width) problems.push(`the page is ${root.scrollWidth} pixels wide`);
  for (const element of document.querySelectorAll(":is(.md-content, .md-footer) *")) {
    const box = element.getBoundingClientRect();
    if (box.width === 0 || box.height === 0) continue;
    if ((box.right > width + 1 || box.left < -1) && !inABox(element)) {
      problems.push(`it sticks out of the window: ${told(element)}`);
    }
  }
  for (const cell of document.querySelectorAll(".md-content :is(td, th)")) {
    if (cell.scrollWidth > cell.clientWidth + 1) {
      problems.push(`text runs out of its cell: ${told(cell)}`);
    }
  }
  for (const image of document.images) {
    if (!image.naturalWidth) problems.push(`an image did not load: ${image.src}`);
  }

  // Contrast as WCAG 2 defines it: text needs 4.5, bars need 3.
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour, ...below) => {
    paint.clearRect(0, 0, 1, 1);
    for (const each of [...below, colour]) {
      paint.fillStyle = each;
      paint.fillRect(0, 0, 1, 1);
    }
    return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (parts) => {
    const [r, g, b] = parts.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const below = (element) => {
    const found = [];
    for (let outer = element; outer; outer = outer.parentElement) {
      found.unshift(getComputedStyle(outer).backgroundColor);
    }
    return ["white", ...found];
  };
  for (const plot of document.querySelectorAll(".md-content svg.plot")) {
    const ground = below(plot);
    const room = plot.getBoundingClientRect();
    for (const shape of plot.querySelectorAll("text, rect, path")) {
      const style = getComputedStyle(shape);
      const box = shape.getBoundingClientRect();
      const colour = style.fill === "none" ? style.stroke : style.fill;
      const ratio = contrast(rgb(colour, ...ground), rgb("transparent", ...ground));
      const isText = shape.localName === "text";
      if (ratio < (isText ? 4.5 : 3)) {
        problems.push(`too faint in a plot, ${ratio.toFixed(1)}: ${told(shape)}`);
      }
      if (isText) {
        const size = parseFloat(style.fontSize) * (room.width / plot.viewBox.baseVal.width);
        if (size < 9) problems.push(`too small in a plot, ${size.toFixed(1)} pixels: ${told(shape)}`);
        if (box.left < room.left - 1 || box.right > room.right + 1) {
          problems.push(`text runs out of its plot: ${told(shape)}`);
        }
      }
    }
  }

  return {
    problems,
    scheme: document.body.dataset.mdColorScheme,
    links: [...document.querySelectorAll("a[href]")].map((link) => link.href),
    places: [...document.querySelectorAll("[id], a[name]")].map((place) => place.id || place.name),
  };
})();
