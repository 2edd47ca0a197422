"use strict";
const jobs = JSON.parse(document.getElementById("data").textContent);

// The table: a click on a heading sorts by its column, ascending; a second click, descending.
const table = document.getElementById("results");
const headings = [...table.tHead.rows[0].cells];
const valueOf = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};
const compare = (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === ""); // missing values come last
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
};
headings.forEach((heading, column) => {
  heading.querySelector("button").addEventListener("click", () => {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    const missing = (row) => valueOf(row, column) === "";
    const order = (a, b) => (ascending || missing(a) || missing(b) ? 1 : -1) * compare(valueOf(a, column), valueOf(b, column));
    table.tBodies[0].append(...rows.sort(order));
  });
});

// The players: the videos of a job follow the first one, and stop together at the end.
const TAIL = 8; // frames of a track that are drawn before the current one

for (const article of document.querySelectorAll(".job")) {
  const job = jobs[Number(article.dataset.job)];
  const videos = [...article.querySelectorAll("video")];
  const lead = videos[0];
  const play = article.querySelector(".play");
  const seek = article.querySelector(".seek input");
  const output = article.querySelector(".seek output");
  const showTracks = article.querySelector(".show-tracks");
  const showFlow = article.querySelector(".show-flow");
  const last = job.numFrames - 1;
  const timeOf = (frame) => (frame + 0.5) / job.fps;
  const frameAt = (time) => Math.min(last, Math.floor(time * job.fps + 1e-3));

  const draw = (frame) => videos.forEach((video) => drawOverlay(video, job, frame, showTracks.checked, showFlow.checked));
  let shown = 0;
  const show = (frame) => {
    if (frame === shown) return;
    shown = frame;
    seek.value = frame;
    output.textContent = `${frame + 1} of ${job.numFrames}`;
    seek.setAttribute("aria-valuetext", output.textContent);
    draw(frame);
  };
  const goTo = (frame) => {
    videos.forEach((video) => { video.currentTime = timeOf(frame); });
    show(frame);
  };
  const setPlaying = (playing) => { play.textContent = playing ? "Pause" : "Play"; };
  const stop = () => {
    videos.forEach((video) => video.pause());
    setPlaying(false);
  };
  const follow = () => {
    if (lead.paused && !lead.ended) return;
    const frame = frameAt(lead.currentTime);
    for (const video of videos.slice(1)) {
      if (Math.abs(video.currentTime - lead.currentTime) > 0.5 / job.fps) video.currentTime = lead.currentTime;
    }
    show(frame);
    if (lead.ended) stop();
    else requestAnimationFrame(follow);
  };
  play.addEventListener("click", async () => {
    if (!lead.paused) {
      stop();
      goTo(Number(seek.value));
      return;
    }
    if (lead.ended || Number(seek.value) >= last) goTo(0);
    try {
      await Promise.all(videos.map((video) => video.play()));
    } catch (error) { // interrupted by a pause, or a format that this browser cannot play
      stop();
      if (error.name !== "AbortError") output.textContent = "this browser cannot play the videos";
      return;
    }
    setPlaying(true);
    requestAnimationFrame(follow);
  });
  seek.addEventListener("input", () => { stop(); goTo(Number(seek.value)); });
  for (const box of [showTracks, showFlow]) box.addEventListener("change", () => draw(Number(seek.value)));
  new ResizeObserver(() => draw(Number(seek.value))).observe(lead);
  lead.addEventListener("loadeddata", () => draw(Number(seek.value)), { once: true });
}

function drawOverlay(video, job, frame, withTracks, withFlow) {
  const canvas = video.nextElementSibling;
  const motion = job.overlays[video.dataset.video];
  const ratio = window.devicePixelRatio || 1;
  canvas.width = video.clientWidth * ratio;
  canvas.height = video.clientHeight * ratio;
  const context = canvas.getContext("2d");
  const scale = canvas.height / 1000; // positions are in thousandths of the height
  if (withFlow && frame < motion.flow.length) drawFlow(context, motion, frame, canvas, scale, ratio);
  if (withTracks) drawTracks(context, motion.tracks, frame, scale, ratio);
}

function drawTracks(context, tracks, frame, scale, ratio) {
  context.lineWidth = 1.5 * ratio;
  tracks.forEach((track, number) => {
    context.strokeStyle = context.fillStyle = `hsl(${(number * 137.5) % 360} 90% 60%)`;
    context.beginPath();
    let drawing = false;
    for (let at = Math.max(0, frame - TAIL); at <= frame; at++) {
      const point = track[at];
      if (point && drawing) context.lineTo(point[0] * scale, point[1] * scale);
      else if (point) context.moveTo(point[0] * scale, point[1] * scale);
      drawing = Boolean(point);
    }
    context.stroke();
    const head = track[frame];
    if (head) {
      context.beginPath();
      context.arc(head[0] * scale, head[1] * scale, 2 * ratio, 0, 2 * Math.PI);
      context.fill();
    }
  });
}

function drawFlow(context, motion, frame, canvas, scale, ratio) {
  const [cellHeight, cellWidth] = [canvas.height / motion.rows, canvas.width / motion.columns];
  context.lineWidth = 1.5 * ratio;
  motion.flow[frame].forEach((row, down) => row.forEach(([x, y], right) => {
    if (Math.hypot(x, y) < 3) return; // almost still
    const from = [(right + 0.5) * cellWidth, (down + 0.5) * cellHeight];
    const to = [from[0] + x * scale * 2, from[1] + y * scale * 2];
    const angle = Math.atan2(y, x);
    context.strokeStyle = context.fillStyle = `hsl(${(angle * 180) / Math.PI} 90% 60%)`;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    context.beginPath();
    context.moveTo(...to);
    for (const turn of [2.6, -2.6]) {
      context.lineTo(to[0] + 5 * ratio * Math.cos(angle + turn), to[1] + 5 * ratio * Math.sin(angle + turn));
    }
    context.fill();
  }));
}
