// The page reads without this script: it moves a line over the spectrogram that plays, and copies the command.
for (const clip of document.querySelectorAll(".clip")) {
  const player = clip.querySelector("audio");
  const playhead = clip.querySelector(".playhead");
  const move = () => {
    playhead.style.left = `${(100 * player.currentTime) / (player.duration || 1)}%`;
    if (!player.paused) requestAnimationFrame(move);
  };
  player.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
    clip.classList.add("playing");
    move();
  });
  player.addEventListener("seeked", move);
  player.addEventListener("ended", () => clip.classList.remove("playing"));
  clip.querySelector(".picture").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    if (player.duration) player.currentTime = (player.duration * (event.clientX - box.left)) / box.width;
    player.play();
  });
}

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}
