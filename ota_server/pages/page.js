// What every page does: times in the viewer's zone, and news from the server while it is looked at.

const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const AGE = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function age(then) {
  const seconds = Math.max(0, (Date.now() - then) / 1000);
  const [unit, size] = UNITS.find(([, size]) => seconds >= size) ?? ["second", 1];
  return AGE.format(-Math.floor(seconds / size), unit);
}

function showTimes() {
  for (const element of document.querySelectorAll("time[data-as]")) {
    const then = new Date(element.dateTime);
    element.title = DATE.format(then);
    element.textContent = element.dataset.as === "age" ? age(then) : DATE.format(then);
  }
}

// One connection, and only while somebody looks: a browser allows a server six of them.
let news = null;

function listen() {
  const address = document.body.dataset.live;
  if (!address) return;
  if (document.hidden) {
    news?.close();
    news = null;
  } else if (!news) {
    news = new EventSource(address);
    news.addEventListener("changed", () => htmx.trigger(document.body, "changed"));
    news.addEventListener("open", () => { document.documentElement.dataset.live = "open"; });
  }
}

document.addEventListener("visibilitychange", () => {
  listen();
  if (!document.hidden && document.body.dataset.live) htmx.trigger(document.body, "changed");
});
document.body.addEventListener("htmx:afterSwap", showTimes);
setInterval(showTimes, 15000);
showTimes();
listen();
document.documentElement.dataset.ready = "yes";
