// The page: asks the server it came from, shows answers as they stream, and looks into them.

const $ = (id) => document.getElementById(id);
const NUMBERS = ["max_new_tokens", "min_new_tokens", "num_beams", "num_return_sequences", "length_penalty",
  "temperature", "top_p", "no_repeat_ngram_size"];
const HISTORY_SIZE = 50;
const RETRY_MS = 1500;   // while the server is away
const CHECK_MS = 10000;

let running = null;   // AbortController of the question under way
let shown = "";       // text of the answer on the page
let isReachable = false;
let readyText = "ready";
let nextCheck = 0;       // timer

// What the browser keeps. Storage may be forbidden; then nothing is kept.

function stored(storage, name, fallback) {
  try {
    const value = storage().getItem(name);
    return value === null ? fallback : JSON.parse(value);
  } catch {
    return fallback;
  }
}

function store(storage, name, value) {
  try {
    storage().setItem(name, JSON.stringify(value));
  } catch { /* kept for this visit only */ }
}

const local = () => window.localStorage;
const session = () => window.sessionStorage;

// The server

async function call(path, body, signal) {
  const headers = {};
  const key = stored(session, "t5kit-key", "");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST", headers, signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name !== "AbortError") setReachable(false);
    throw error.name === "AbortError" ? error : new Error("The server cannot be reached.");
  }
  if (response.status === 401) askForKey();
  if (!response.ok) {
    const reply = await response.json().catch(() => null);
    const after = response.headers.get("Retry-After");
    const message = reply?.error?.message ?? `The server answered ${response.status}.`;
    throw new Error(after ? `${message} (try again in ${after} s)` : message);
  }
  return response;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

function setReachable(is) {
  const wasReachable = isReachable;
  isReachable = is;
  if (!is && wasReachable) {
    clearTimeout(nextCheck);
    nextCheck = setTimeout(watch, RETRY_MS);
  }
  if (!is) setStatus("not reachable, trying again …", "away");
}

function setStatus(text, kind) {
  $("status").textContent = text;
  $("status").className = kind;
}

async function watch() {
  try {
    const response = await fetch("readyz");
    const health = await response.json();
    if (response.ok) {
      const wasAway = !isReachable;
      setReachable(true);
      if (wasAway) await listModels();
      setStatus(readyText, "ready");
    } else {
      isReachable = false;  // so that the models are listed again
      setStatus(health.status === "stopping" ? "the server is stopping" : "the model is starting …", "away");
    }
  } catch {
    setReachable(false);
  }
  clearTimeout(nextCheck);
  nextCheck = setTimeout(watch, isReachable ? CHECK_MS : RETRY_MS);
}

async function listModels() {
  const { data } = await (await call("v1/models")).json();
  const chosen = $("model").value || stored(local, "t5kit-model", "");
  $("model").replaceChildren(...data.map(({ id, parent }) => new Option(parent ? `${id} (on ${parent})` : id, id)));
  if (data.some(({ id }) => id === chosen)) $("model").value = chosen;
  const model = data.find(({ id }) => id === $("model").value);
  listTasks(model?.prefixes ?? {});
  readyText = model ? `ready: ${model.engine}, ${model.weights}` : "ready";
  setStatus(readyText, "ready");
}

const USUAL_TASKS = [...$("task").options].slice(1, -1);

// The tasks that the model's folder names; the usual ones of T5 for a folder that names none.
function listTasks(prefixes) {
  const own = Object.entries(prefixes).map(([task, prefix]) => new Option(task, prefix));
  const [written, custom] = [$("task").options[0], $("task").options[$("task").options.length - 1]];
  $("task").replaceChildren(written, ...(own.length ? own : USUAL_TASKS), custom);
  setPrefix($("prefix").value);
}

function askForKey() {
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

// Asking

function question() {
  const body = { text: $("prefix").value + $("text").value, details: true };
  if ($("model").value) body.model = $("model").value;
  for (const name of NUMBERS) if ($(name).value !== "") body[name] = Number($(name).value);
  return body;
}

async function ask() {
  if (running || !$("text").value.trim()) {
    $("text").focus();
    return;
  }
  const body = question();
  const isStream = (body.num_return_sequences ?? 1) === 1;
  running = new AbortController();
  const signal = running.signal;
  const started = performance.now();
  let firstAfter = null;
  setBusy(true);
  showError("");
  clearResult();
  try {
    const response = await call("v1/generate", { ...body, stream: isStream }, signal);
    let result = null;
    if (isStream) {
      for await (const event of events(response)) {
        if (event.type === "text") {
          firstAfter ??= performance.now() - started;
          shown += event.text;
          $("answer").append(event.text);
        } else if (event.type === "error") {
          throw new Error(event.error.message);
        } else if (event.type === "result") {
          result = event;
        }
      }
      if (!result) throw new Error("The connection was lost before the answer was complete.");
    } else {
      [result] = (await response.json()).results;
      shown = result.outputs[0].text;
      $("answer").textContent = shown;
    }
    setBusy(false);
    const seconds = (performance.now() - started) / 1000;
    const first = firstAfter === null ? "" : `, first word after ${(firstAfter / 1000).toFixed(2)} s`;
    $("timing").textContent = `${result.outputs[0].num_tokens} tokens in ${seconds.toFixed(2)} s${first}`;
    showBest(result.outputs);
    remember(body, shown);
    await look(body, result.outputs[0], signal);
  } catch (error) {
    if (error.name === "AbortError") {
      $("timing").textContent = "stopped";
    } else {
      showError(error instanceof TypeError ? "The connection was lost." : error.message);
      if (error instanceof TypeError) setReachable(false);
    }
  } finally {
    running = null;
    setBusy(false);
  }
}

function setBusy(is) {
  $("answer").classList.toggle("busy", is);
  $("answer").setAttribute("aria-busy", String(is));
  $("ask").disabled = is;
  $("stop").hidden = !is;
}

function showError(message) {
  $("error").hidden = !message;
  $("error").textContent = message;
}

function clearResult() {
  shown = "";
  $("result").hidden = false;
  $("answer").replaceChildren();
  $("timing").textContent = "";
  $("inside").hidden = $("best").hidden = true;
}

function showBest(outputs) {
  $("best").hidden = outputs.length < 2;
  $("best-list").replaceChildren(...outputs.map((output) => {
    const item = document.createElement("li");
    const note = document.createElement("span");
    note.className = "hint";
    note.textContent = `  score ${output.score.toFixed(3)}, ${output.num_tokens} tokens`;
    item.append(output.text || "(empty)", note);
    return item;
  }));
}

// Looking into an answer

async function look(body, output, signal) {
  if (!output.token_ids.length) return;
  const asked = { text: body.text, answer_ids: output.token_ids, num_alternatives: 6 };
  if (body.model) asked.model = body.model;
  let trace;
  try {
    trace = await (await call("v1/trace", asked, signal)).json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return;  // the answer stands; it is only not explained (too long, say)
  }
  const reading = words(trace.input_tokens);
  const marks = reading.map(() => document.createElement("span"));
  $("read").replaceChildren(...reading.flatMap(({ text }, place) => spaced(text, marks[place])));
  const written = words(trace.tokens);
  const buttons = [];
  const nodes = [];
  const wanted = shown;
  let used = "";
  for (const word of written) {
    if (!word.text || used.length >= wanted.length) continue;  // end of sequence, or cut by a stop string
    used += word.text;
    const button = document.createElement("button");
    button.type = "button";
    nodes.push(...spaced(word.text, button));
    button.setAttribute("aria-pressed", "false");
    const probability = Math.min(...word.places.map((place) => Math.exp(trace.tokens[place].log_prob)));
    button.classList.toggle("unsure", probability < 0.5);
    const point = () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      showAlternatives(word, trace.tokens);
      showAttention(word, trace.tokens, reading, marks);
    };
    button.addEventListener("mouseenter", point);
    button.addEventListener("focus", point);
    button.addEventListener("click", point);
    buttons.push(button);
  }
  if (used !== wanted) return;  // a vocabulary that does not spell the answer token by token
  $("answer").replaceChildren(...nodes);
  $("alternatives").replaceChildren();
  $("inside").hidden = false;
}

// A word's leading space, and the element that holds the rest of it.
function spaced(text, element) {
  element.textContent = text.trimStart() || text;
  return [text.slice(0, text.length - element.textContent.length), element];
}

// Tokens grouped to words: a word begins with a space, or with the vocabulary's mark for one.
function words(tokens) {
  const found = [];
  tokens.forEach(({ text, piece }, place) => {
    const begins = /^\s/.test(text) || piece.startsWith("▁") || !found.length || text === "";
    if (begins) found.push({ text: "", places: [] });
    found.at(-1).text += text;
    found.at(-1).places.push(place);
  });
  return found;
}

function showAlternatives(word, tokens) {
  $("alternatives").replaceChildren(...word.places.slice(0, 12).map((place) => {
    const table = document.createElement("table");
    const token = tokens[place];
    table.createCaption().textContent = `In place of “${name(token)}”`;
    const head = table.createTHead().insertRow();
    for (const title of ["token", "probability"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = title;
      head.append(cell);
    }
    const body = table.createTBody();
    for (const other of token.alternatives) {
      const row = body.insertRow();
      row.classList.toggle("chosen", other.id === token.id);
      const code = document.createElement("code");
      code.textContent = name(other);
      row.insertCell().append(code);
      row.insertCell().textContent = percent(other.log_prob);
    }
    if (!token.alternatives.some(({ id }) => id === token.id)) {
      const row = body.insertRow();
      row.className = "chosen";
      const code = document.createElement("code");
      code.textContent = name(token);
      row.insertCell().append(code);
      row.insertCell().textContent = percent(token.log_prob);
    }
    return table;
  }));
}

function name({ text, piece }) {
  return text.trim() || piece;
}

function percent(logProb) {
  const share = 100 * Math.exp(logProb);
  return share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
}

function showAttention(word, tokens, reading, marks) {
  const weights = reading.map(({ text, places }) => text === "" ? 0 : word.places.reduce(
    (sum, place) => sum + places.reduce((inner, source) => inner + tokens[place].attention[source], 0), 0));
  const most = Math.max(...weights, 1e-9);
  marks.forEach((mark, place) => {
    const share = weights[place] / most;
    mark.style.setProperty("--weight", share.toFixed(3));
    mark.title = reading[place].text ? `${(100 * weights[place] / word.places.length).toFixed(1)} % of the attention` : "";
  });
}

// History

function remember(body, answer) {
  const past = stored(local, "t5kit-history", []);
  const { details, text, ...options } = body;
  const entry = { prefix: $("prefix").value, text: $("text").value, options, answer };
  store(local, "t5kit-history", [entry, ...past].slice(0, HISTORY_SIZE));
  showHistory();
}

function showHistory() {
  const past = stored(local, "t5kit-history", []);
  $("past").hidden = !past.length;
  $("past-list").replaceChildren(...past.map((entry) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    const asked = document.createElement("span");
    const answered = document.createElement("span");
    asked.textContent = entry.prefix + entry.text;
    answered.textContent = entry.answer || "(empty)";
    answered.className = "hint";
    button.append(asked, answered);
    button.addEventListener("click", () => restore(entry));
    item.append(button);
    return item;
  }));
}

function restore({ prefix, text, options, answer }) {
  setPrefix(prefix);
  $("text").value = text;
  for (const field of NUMBERS) $(field).value = options[field] ?? "";
  if (options.model && [...$("model").options].some(({ value }) => value === options.model)) $("model").value = options.model;
  clearResult();
  shown = answer;
  $("answer").textContent = answer;
  $("timing").textContent = "from the history";
  $("text").focus();
}

function setPrefix(prefix) {
  $("prefix").value = prefix;
  const known = [...$("task").options].some(({ value }) => value === prefix && value !== "custom");
  $("task").value = known ? prefix : "custom";
}

// Theme

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(theme === "dark"));
}

const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(stored(local, "t5kit-theme", prefersDark.matches ? "dark" : "light"));
prefersDark.addEventListener("change", ({ matches }) => {
  if (stored(local, "t5kit-theme", null) === null) setTheme(matches ? "dark" : "light");
});
$("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  store(local, "t5kit-theme", theme);
  setTheme(theme);
});

// What the visitor does

$("task").addEventListener("change", () => {
  if ($("task").value === "custom") $("prefix").focus();
  else $("prefix").value = $("task").value;
});
$("prefix").addEventListener("input", () => setPrefix($("prefix").value));
$("model").addEventListener("change", () => {
  store(local, "t5kit-model", $("model").value);
  listModels().catch(() => {});
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(shown);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("answer"));  // where the clipboard is not ours: the visitor copies
    $("copy").textContent = "Selected";
  }
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});
$("forget").addEventListener("click", () => {
  store(local, "t5kit-history", []);
  showHistory();
});
$("key-form").addEventListener("submit", () => {
  store(session, "t5kit-key", $("key").value.trim());
  $("key").value = "";
  listModels().then(() => showError("")).catch((error) => showError(error.message));
});

showHistory();
watch();
