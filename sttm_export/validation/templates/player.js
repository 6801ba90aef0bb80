"use strict";
(() => {
  const clip = JSON.parse(document.getElementById("clip").textContent);
  const find = (id) => document.getElementById(id);
  const [rows, columns] = clip.grid, last = clip.frames.length - 1;
  const player = find("player"), stage = find("stage"), canvas = find("tokens");
  const seek = find("seek"), pick = find("pick"), play = find("play"), show = find("show");
  const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  // Of each token: its frames, and how many cells went to it in each.
  const lives = clip.boxes.map(() => new Map());
  clip.assignment.forEach((cells, t) => cells.forEach((token) => {
    lives[token].set(t, (lives[token].get(t) || 0) + 1);
  }));
  const begins = clip.boxes.map((box) => box[0]);
  const added = clip.frames.map((_, t) => begins.filter((first) => first === t).length);
  const color = (token) => clip.palette[clip.colors[token]];

  let frame = 0, pinned = null, hovered = null, timer = null;
  const chosen = () => (pinned === null ? hovered : pinned);

  function paint() {
    const scale = window.devicePixelRatio || 1;
    const width = canvas.width = Math.max(1, Math.round(stage.clientWidth * scale));
    const height = canvas.height = Math.max(1, Math.round(stage.clientHeight * scale));
    const pen = canvas.getContext("2d"), cells = clip.assignment[frame], token = chosen();
    // Picture and tokens in one canvas: they change in the same moment.
    pen.imageSmoothingQuality = "high";
    if (pictures[frame].complete) pen.drawImage(pictures[frame], 0, 0, width, height);
    if (!show.checked) return;
    const xs = edges(columns, width), ys = edges(rows, height);
    const cell = Math.min(width / columns, height / rows);
    const at = (y, x) => (y < 0 || x < 0 || y >= rows || x >= columns ? -1 : cells[y * columns + x]);
    const isNew = (y, x) => begins[at(y, x)] === frame;
    const each = (draw) => { for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) draw(y, x, at(y, x)); };
    const fill = (y, x, style) => {
      pen.fillStyle = style;
      pen.fillRect(xs[x], ys[y], xs[x + 1] - xs[x], ys[y + 1] - ys[y]);
    };
    each((y, x, mine) => { if (!isNew(y, x) && mine !== token) fill(y, x, veil(mine)); });
    const thin = Math.max(1, Math.round(scale)), solid = Math.max(thin, Math.min(4 * thin, Math.round(cell / 16)));
    each((y, x, mine) => {
      if (isNew(y, x)) {
        if (solid > thin) border(pen, xs, ys, y, x, at, solid + thin, "rgba(0,0,0,.45)");
        border(pen, xs, ys, y, x, at, solid, color(mine));
      } else {
        border(pen, xs, ys, y, x, at, thin, color(mine) + "9e");
      }
    });
    if (token === null || !lives[token].has(frame)) return;
    each((y, x, mine) => {
      if (mine !== token) return fill(y, x, "rgba(8,11,18,.62)");
      border(pen, xs, ys, y, x, at, solid + 3 * thin, "#fff");
      border(pen, xs, ys, y, x, at, solid + 2 * thin, color(mine));
    });
  }

  const edges = (n, size) => Array.from({ length: n + 1 }, (_, i) => Math.round((i * size) / n));

  function veil(token) {
    const tone = [1, 3, 5].map((i) => parseInt(color(token).slice(i, i + 2), 16));
    const mixed = tone.map((value, i) => Math.round((1 - clip.tint) * clip.shade[i] + clip.tint * value));
    return `rgba(${mixed.join(",")},${1 - clip.left})`;
  }

  // Inside its own cell, on each side where the next cell has another token, and in corners that two such sides leave.
  function border(pen, xs, ys, y, x, at, line, style) {
    const mine = at(y, x), [left, right, top, bottom] = [xs[x], xs[x + 1], ys[y], ys[y + 1]];
    const differs = (dy, dx) => at(y + dy, x + dx) !== mine;
    const width = Math.min(line, right - left), height = Math.min(line, bottom - top);
    const [up, down, west, east] = [differs(-1, 0), differs(1, 0), differs(0, -1), differs(0, 1)];
    pen.fillStyle = style;
    pen.beginPath();
    if (up) pen.rect(left, top, right - left, height);
    if (down) pen.rect(left, bottom - height, right - left, height);
    if (west) pen.rect(left, top, width, bottom - top);
    if (east) pen.rect(right - width, top, width, bottom - top);
    for (const [dy, dx, sides] of [[-1, -1, up || west], [-1, 1, up || east], [1, -1, down || west], [1, 1, down || east]]) {
      if (!sides && differs(dy, dx)) pen.rect(dx < 0 ? left : right - width, dy < 0 ? top : bottom - height, width, height);
    }
    pen.fill();
  }

  function tell() {
    const fresh = clip.assignment[frame].filter((token) => begins[token] === frame).length;
    const joined = clip.assignment[frame].length - fresh;
    const spent = added.slice(0, frame + 1).reduce((sum, n) => sum + n, 0);
    const label = clip.frames[frame].label;
    find("time").textContent = label;
    find("number").textContent = `frame ${frame + 1} of ${last + 1}`;
    find("said").textContent = `${count(added[frame], "new token")}; ${count(joined, "cell")} joined earlier ones`;
    find("spent").textContent = `${spent.toLocaleString("en")} so far, of a budget of ${count(clip.budget, "token")}`;
    find("gauge").style.width = `${Math.min(100, (100 * spent) / Math.max(1, clip.budget))}%`;
    canvas.setAttribute("aria-label", `Frame ${frame + 1}, ${label}: ${count(added[frame], "new token")}`);
    seek.value = frame;
    seek.setAttribute("aria-valuetext", `${label}, frame ${frame + 1} of ${last + 1}`);
    find("back").disabled = frame === 0;
    find("next").disabled = frame === last;
    document.querySelectorAll("[data-frame]").forEach((mark) => {
      mark.classList.toggle("here", Number(mark.dataset.frame) === frame);
    });
    // Sideways only: the page itself stays where it is.
    const here = strip.children[frame];
    strip.scrollLeft = here.offsetLeft - strip.offsetLeft - (strip.clientWidth - here.clientWidth) / 2;
  }

  function tellToken() {
    const token = chosen();
    find("drop").hidden = pinned === null;
    find("swatch").style.background = token === null ? "" : color(token);
    player.classList.toggle("picked", token !== null);
    [...strip.children].forEach((box, t) => {
      const there = token !== null && lives[token].has(t);
      box.lastChild.style.cssText = there ? `background:${color(token)};opacity:1` : "";
    });
    if (document.activeElement !== pick) pick.value = token === null ? "" : token;
    if (token === null) {
      find("about").textContent = "Point at a cell to see what its token stands for, or click to hold on to it.";
      return;
    }
    const sizes = [...lives[token].values()], first = begins[token];
    const total = sizes.reduce((sum, n) => sum + n, 0), away = lives[token].has(frame) ? "" : " It is not in this frame.";
    find("about").textContent = `First seen at ${clip.frames[first].label}, in frame ${first + 1}; stands for ` +
      `${count(total, "cell")} in ${count(sizes.length, "frame")}.${away}`;
  }

  function go(t) {
    frame = Math.min(last, Math.max(0, t));
    tell();
    tellToken();
    paint();
  }

  function choose(token) {
    pinned = token;
    tellToken();
    paint();
  }

  function run(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => go(frame === last ? 0 : frame + 1), 600) : null;
    play.setAttribute("aria-pressed", String(on));
    play.setAttribute("aria-label", on ? "Stop" : "Play");
    // What changes twice a second is not read out.
    find("said").setAttribute("aria-live", on ? "off" : "polite");
  }

  function under(event) {
    const box = stage.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * columns);
    const y = Math.floor(((event.clientY - box.top) / box.height) * rows);
    return clip.assignment[frame][Math.min(rows - 1, Math.max(0, y)) * columns + Math.min(columns - 1, Math.max(0, x))];
  }

  function hover(token) {
    if (hovered === token) return;
    hovered = token;
    if (pinned === null) { tellToken(); paint(); }
  }

  const strip = find("strip");
  const pictures = clip.frames.map((one, t) => {
    const box = document.createElement("div"), picture = document.createElement("img");
    picture.addEventListener("load", () => { if (t === frame) paint(); });
    picture.src = one.src;
    picture.alt = "";
    box.dataset.frame = t;
    box.title = `${one.label}: ${count(added[t], "new token")}`;
    box.append(picture, document.createElement("i"));
    strip.append(box);
    return picture;
  });
  const step = (t) => { run(false); go(t); };
  document.querySelectorAll("[data-frame]").forEach((mark) => {
    mark.addEventListener("click", () => step(Number(mark.dataset.frame)));
  });
  find("back").addEventListener("click", () => step(frame - 1));
  find("next").addEventListener("click", () => step(frame + 1));
  play.addEventListener("click", () => run(timer === null));
  seek.addEventListener("input", () => step(Number(seek.value)));
  show.addEventListener("change", paint);
  stage.addEventListener("pointermove", (event) => hover(under(event)));
  stage.addEventListener("pointerleave", () => hover(null));
  stage.addEventListener("click", (event) => {
    const token = under(event);
    choose(pinned === token ? null : token);
  });
  find("drop").addEventListener("click", () => { choose(null); pick.focus(); });
  pick.addEventListener("input", () => {
    const token = pick.value === "" ? NaN : Number(pick.value), known = Number.isInteger(token) && token in clip.boxes;
    if (known && !lives[token].has(frame)) step(begins[token]);
    choose(known ? token : null);
  });

  // Keys belong to the player where it has the focus, or where nothing has it and the player is in sight.
  document.addEventListener("keydown", (event) => {
    const focus = document.activeElement, tag = focus.tagName, box = stage.getBoundingClientRect();
    const inSight = box.bottom > 0 && box.top < window.innerHeight;
    if (!(player.contains(focus) || (focus === document.body && inSight))) return;
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || focus === pick) return;
    if (event.key === "ArrowLeft" && focus !== seek) step(frame - 1);
    else if (event.key === "ArrowRight" && focus !== seek) step(frame + 1);
    else if (event.key === " " && tag !== "BUTTON" && focus !== show) run(timer === null);
    else if (event.key === "Escape") choose(null);
    else return;
    event.preventDefault();
  });

  const sheet = find("sheet");
  if (sheet) {
    sheet.open = false;
    window.addEventListener("beforeprint", () => { sheet.open = true; run(false); });
  }
  stage.style.aspectRatio = `${clip.size[0]} / ${clip.size[1]}`;
  stage.style.maxWidth = `calc(68vh * ${clip.size[0] / clip.size[1]})`;
  seek.max = last;
  pick.max = clip.boxes.length - 1;
  player.classList.toggle("single", last === 0);
  player.hidden = false;
  new ResizeObserver(paint).observe(stage);
  go(0);
})();
