() => {
  // A click on a picture means the pixel under it. Gradio reckons as if no picture were shown larger than it is
  // (`object-fit: scale-down`); ours fill their frame (`contain`, studio.css), in full screen above all. So where one is
  // enlarged, the click goes on with the place at which Gradio finds the pixel that was hit.
  document.addEventListener(
    "click",
    (event) => {
      if (!event.isTrusted || !event.detail) return; // our own, or a key
      const button = event.target.closest("button");
      const image = button && button.querySelector(":scope > .image-frame.selectable img");
      if (!image || !image.naturalWidth) return;
      const box = image.getBoundingClientRect();
      const { naturalWidth: width, naturalHeight: height } = image;
      const scale = Math.min(box.width / width, box.height / height);
      if (scale <= 1) return; // as Gradio reckons
      const middle = { x: box.left + box.width / 2, y: box.top + box.height / 2 };
      const meant = new MouseEvent("click", { bubbles: true, cancelable: true, composed: true, view: window });
      // Not in the constructor: it would cut the fractions off.
      Object.defineProperties(meant, {
        clientX: { value: middle.x + (event.clientX - middle.x) / scale },
        clientY: { value: middle.y + (event.clientY - middle.y) / scale },
      });
      event.stopPropagation();
      event.target.dispatchEvent(meant);
    },
    true
  );
}
