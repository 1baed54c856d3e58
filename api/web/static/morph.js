// Brings a part of the page to the state of a fresh one and touches only what differs: focus, selection, ticked boxes,
// opened details and scroll positions stay, and nothing that stays the same is laid out again.
// Children with an id or data-key are matched by it, the others by their place.

export function morph(now, fresh) {
  if (now.nodeType !== fresh.nodeType || now.nodeName !== fresh.nodeName) return now.replaceWith(fresh);
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.nodeValue !== fresh.nodeValue) now.nodeValue = fresh.nodeValue;
    return;
  }
  // A moment's text is made by times.js; it stays as long as the moment does.
  const isSameMoment = now instanceof HTMLTimeElement && now.dateTime === fresh.dateTime;
  matchAttributes(now, fresh);
  if (!isSameMoment) matchChildren(now, fresh);
}

function matchAttributes(now, fresh) {
  for (const { name, value } of fresh.attributes) {
    if (now.getAttribute(name) !== value && !isReaders(now, name)) now.setAttribute(name, value);
  }
  for (const { name } of [...now.attributes]) {
    if (!fresh.hasAttribute(name) && !isReaders(now, name)) now.removeAttribute(name);
  }
  if (now instanceof HTMLProgressElement || now instanceof HTMLMeterElement) now.value = fresh.value;
}

// What the reader has done to the page, which the server does not know of.
function isReaders(element, name) {
  if (element instanceof HTMLTimeElement) return name === "title";
  if (element instanceof HTMLDetailsElement || element instanceof HTMLDialogElement) return name === "open";
  return element.matches("input, select, textarea, option, button") && ["value", "checked", "selected", "disabled"].includes(name);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || "" : "";
}

function matchChildren(now, fresh) {
  const keyed = new Map([...now.childNodes].filter(keyOf).map((node) => [keyOf(node), node]));
  const wanted = new Set([...fresh.childNodes].map(keyOf).filter(Boolean));
  let place = now.firstChild;
  for (const next of [...fresh.childNodes]) {
    // What is gone from the fresh page makes room, before places are compared.
    while (place && keyOf(place) && !wanted.has(keyOf(place))) place = drop(place);
    const key = keyOf(next);
    const known = key ? keyed.get(key) : place && !keyOf(place) ? place : null;
    if (!known) {
      now.insertBefore(next, place);
    } else {
      if (known === place) place = place.nextSibling;
      else now.insertBefore(known, place);
      morph(known, next);
    }
  }
  while (place) place = drop(place);
}

function drop(node) {
  const following = node.nextSibling;
  node.remove();
  return following;
}
