// Elements, made of text and of one another: no text is ever read as HTML.

const COPIED_MILLISECONDS = 1500;

/** An element with a class and children, which are elements or text. */
export function element(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A button that copies what `text` gives. Browsers let no page copy that came over plain HTTP from another machine. */
export function copyButton(text, what) {
  if (!navigator.clipboard) return "";
  const button = element("button", "copy", "Copy");
  button.type = "button";
  button.setAttribute("aria-label", `Copy ${what}`);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text()).then(
      () => (button.textContent = "Copied"),
      () => (button.textContent = "Not allowed"),
    );
    setTimeout(() => (button.textContent = "Copy"), COPIED_MILLISECONDS);
  });
  return button;
}
