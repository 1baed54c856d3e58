// How every plot looks, in the colours of the page's own style sheet.
export const COLOURS = ["#2a78d1", "#d9822b", "#2f9e63", "#9650c8", "#c43c5a", "#13848f", "#8a6d1c", "#5f6b7a"];
export const OPTIONS = { responsive: true, displaylogo: false, displayModeBar: false };

// What a variable of the style sheet means in the present colour scheme.
export function colourOf(variable) {
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

export function layout(axis, showlegend) {
  const line = colourOf("--line");
  return {
    margin: { l: 48, r: 8, t: 6, b: 34 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colourOf("--ink"), size: 11 },
    showlegend,
    legend: { orientation: "h", y: 1.15, x: 0 },
    xaxis: { title: { text: axis }, gridcolor: line, zeroline: false },
    yaxis: { gridcolor: line, zeroline: false, automargin: true },
    hovermode: "x unified",
    uirevision: "kept",
  };
}
