// The line on the timeline follows the audio above it; a click on the picture, or on a segment in the table, plays from there.
const player = element => element.closest?.(".calm")?.querySelector(".calm-timeline audio");

function move(audio) {
  for (const picture of audio.closest(".calm-timeline").querySelectorAll(".calm-picture")) {
    const { seconds, left, right } = picture.dataset;
    const share = Math.min(audio.currentTime / seconds, 1);
    picture.querySelector("i").style.left = `${100 * (+left + (right - left) * share)}%`;
  }
  if (!audio.paused && audio.isConnected) requestAnimationFrame(() => move(audio));
}

for (const name of ["loadedmetadata", "play", "seeked"]) {
  document.addEventListener(name, ({ target }) => target.closest?.(".calm-timeline") && move(target), true);
}

document.addEventListener("error", ({ target }) => {
  if (target.matches?.(".calm-timeline audio")) target.nextElementSibling.hidden = false;
}, true);

document.addEventListener("click", ({ target, clientX }) => {
  const picture = target.closest?.(".calm-picture"), segment = target.closest?.("[data-at]"), audio = player(target);
  if (!audio || !(picture || segment)) return;
  if (picture) {
    const { seconds, left, right } = picture.dataset, box = picture.getBoundingClientRect();
    const share = ((clientX - box.left) / box.width - left) / (right - left);
    audio.currentTime = Math.min(Math.max(share, 0), 1) * seconds;
  } else {
    audio.currentTime = +segment.dataset.at;
  }
  audio.play();
});

// On a phone the answer is below the buttons: it is brought into view, and before it what tells of the work, until one scrolls oneself.
let watching;
document.addEventListener("click", ({ target }) => {
  if (!target.closest?.("#analyse") || !matchMedia("(max-width: 640px)").matches) return;
  const column = document.querySelector("#answer");
  const answered = () => document.querySelector("#result :is(.result, .fault)");
  watching?.disconnect();
  watching = new ResizeObserver(() => column.scrollIntoView({ block: answered() ? "start" : "end" }));
  watching.observe(column);
});
for (const name of ["touchmove", "wheel", "keydown"]) addEventListener(name, () => watching?.disconnect(), { passive: true });
