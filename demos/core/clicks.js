() => {
  // A click on a picture means the pixel under it. Gradio reckons as if no picture were shown larger than it is
  // (`object-fit: scale-down`); ours fill their frame (`contain`, studio.css), in full screen above all. So where one is
  // enlarged, the click goes on with the place at which Gradio finds the pixel that was hit. Without a mouse, the arrow keys
  // move a cross over the picture, and Enter or the space bar clicks there.
  const STEP = 0.02; // of the picture's longer side
  const LEAP = 5; // steps, with Shift
  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const picture = (node) => {
    const button = node.closest?.("button");
    const image = button && button.querySelector(":scope > .image-frame.selectable img");
    return image && image.naturalWidth ? image : null;
  };
  // Where the pixels are: the box of the image is larger where their formats differ.
  function drawn(image) {
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
    const [width, height] = [scale * image.naturalWidth, scale * image.naturalHeight];
    const middle = { x: box.left + box.width / 2, y: box.top + box.height / 2 };
    return { scale, middle, width, height, left: middle.x - width / 2, top: middle.y - height / 2 };
  }
  function click(target, image, x, y) {
    const { scale, middle } = drawn(image);
    const by = Math.max(scale, 1); // as Gradio reckons
    const meant = new MouseEvent("click", { bubbles: true, cancelable: true, composed: true, view: window });
    // Not in the constructor: it would cut the fractions off.
    Object.defineProperties(meant, {
      clientX: { value: middle.x + (x - middle.x) / by },
      clientY: { value: middle.y + (y - middle.y) / by },
    });
    target.dispatchEvent(meant);
  }
  document.addEventListener(
    "click",
    (event) => {
      if (!event.isTrusted || !event.detail) return; // our own, or a key
      const image = picture(event.target);
      if (!image || drawn(image).scale <= 1) return;
      event.stopPropagation();
      click(event.target, image, event.clientX, event.clientY);
    },
    true
  );

  // --- the cross ---

  const cross = document.createElement("i");
  cross.id = "picture-cross";
  cross.setAttribute("aria-hidden", "true");
  let over = null; // the button whose picture has the cross
  let at = { x: 0.5, y: 0.5 }; // shares of the picture
  function show() {
    const image = over && picture(over);
    cross.hidden = !image;
    if (!image) return;
    const { left, top, width, height } = drawn(image);
    cross.style.transform = `translate(${left + at.x * width}px, ${top + at.y * height}px)`;
  }
  document.addEventListener("focusin", (event) => {
    const button = event.target.closest?.("button");
    const now = button && button.matches(":focus-visible") && picture(button) ? button : null;
    if (now && now !== over) at = { x: 0.5, y: 0.5 };
    over = now;
    if (over && !cross.isConnected) document.querySelector(".gradio-container").append(cross);
    show();
  });
  document.addEventListener("focusout", () => ((over = null), show()));
  for (const kind of ["scroll", "resize"]) window.addEventListener(kind, show, { capture: true, passive: true });
  document.addEventListener(
    "keydown",
    (event) => {
      const image = over && event.target === over && picture(over);
      if (!image || event.ctrlKey || event.metaKey || event.altKey) return;
      const move = MOVES[event.key];
      if (!move && event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      const { left, top, width, height } = drawn(image);
      if (!move) return event.repeat ? undefined : click(image, image, left + at.x * width, top + at.y * height);
      const by = STEP * (event.shiftKey ? LEAP : 1) * Math.max(width, height);
      const within = (share) => Math.min(Math.max(share, 0), 0.999);
      at = { x: within(at.x + (by * move[0]) / width), y: within(at.y + (by * move[1]) / height) };
      show();
    },
    true
  );
}
