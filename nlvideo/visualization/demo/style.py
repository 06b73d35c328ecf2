"""Looks of the page. Only fonts that systems have: nothing is fetched from anywhere."""

FONTS = ("Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "Arial", "sans-serif")

CSS = """
.gradio-container { max-width: 1240px !important; width: 100%; margin: 0 auto; --nl-quiet: #57606a; }
.dark.gradio-container, .dark .gradio-container { --nl-quiet: #b1bac4; }
/* A film strip shrinks to the page, and scrolls in its box where it could not be read any more. */
.gradio-container .column, .gradio-container .block { min-width: 0; }
.gradio-container .html-container { padding: 0; }
.gradio-container h1, .gradio-container h2 { margin: 4px 0; }
.gradio-container h3 { margin: 4px 0; font-size: 1rem; }
.nl-note { color: var(--nl-quiet); font-size: 0.875rem; line-height: 1.4; margin: 0; }
.nl-message { border-radius: 6px; padding: 0.5rem 0.75rem; overflow-wrap: anywhere;
  background: var(--background-fill-secondary); border-left: 4px solid var(--border-color-primary); }
.nl-busy { border-left-color: #0072b2; }
.nl-busy::after { content: " ..."; }
.nl-error { border-left-color: #c81e1e; background: #fdecec; color: #7a1414; font-weight: 600; }
.dark .nl-error { background: #4a1515; color: #ffd9d9; }

.nl-examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); gap: 8px; }
.nl-example { border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 4px; margin: 0;
  cursor: pointer; align-self: start; background: var(--background-fill-primary); }
.nl-example video { width: 100%; aspect-ratio: 1; display: block; image-rendering: pixelated; border-radius: 4px; }
.nl-example span { display: block; font-size: 0.8rem; padding-top: 2px; color: var(--body-text-color); }
.nl-example:hover, .nl-example:focus-visible { border-color: #0072b2; outline: 2px solid #0072b2; }

.nl-timeline { display: flex; gap: 3px; height: 110px; margin-top: 6px; }
.nl-moment { flex: 1; min-width: 0; display: flex; align-items: flex-end; padding: 0; margin: 0;
  cursor: pointer;
  border: 2px solid transparent; border-radius: 4px; background: var(--background-fill-secondary); }
.nl-moment span { display: block; width: 100%; border-radius: 2px; }
.nl-moment[aria-pressed=true] { border-color: var(--body-text-color); }
.nl-moment:hover, .nl-moment:focus-visible { outline: 2px solid #0072b2; }
.nl-axis { display: flex; justify-content: space-between; font-size: 0.8rem;
  color: var(--nl-quiet); }
ul.nl-key { display: flex; flex-wrap: wrap; gap: 2px 14px; list-style: none; margin: 4px 0 0; padding: 0; }
ul.nl-key li { display: flex; align-items: center; gap: 5px; font-size: 0.875rem; margin: 0; }
ul.nl-key i { width: 12px; height: 12px; border-radius: 2px; }

.nl-frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(max(96px, 11%), 1fr)); gap: 8px; }
.nl-frames figure { margin: 0; }
.nl-frame { position: relative; cursor: crosshair; line-height: 0; }
.nl-frame img { width: 100%; image-rendering: pixelated; border-radius: 3px; user-select: none; }
.nl-frames figcaption { font-size: 0.75rem; color: var(--nl-quiet); line-height: 1.4; }
.nl-mark { position: absolute; width: 14px; height: 14px; margin: -7px 0 0 -7px; border-radius: 50%;
  border: 3px solid #fff; box-shadow: 0 0 0 2px #000, inset 0 0 0 1px #000; pointer-events: none; }
.nl-strip { overflow-x: auto; }
.nl-strip img { max-width: max(100%, 720px); height: auto; }
"""
