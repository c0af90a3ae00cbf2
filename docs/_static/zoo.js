// Names for what the theme and the gallery leave without one to a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll("button.search-button-field")) {
    // begins with what is seen of it, which on a phone is no text
    button.setAttribute("aria-label", button.innerText.trim() || "Search");
  }
  for (const summary of document.querySelectorAll("nav details > summary")) {
    const link = summary.closest("li").querySelector("a");
    summary.setAttribute("aria-label", "Pages below " + link.textContent.trim());
  }
  for (const link of document.querySelectorAll(".sphx-glr-thumbcontainer a")) {
    link.setAttribute("aria-label", link.textContent.trim());
  }
});
