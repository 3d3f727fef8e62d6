"""Looks at every page of the built site in Chromium, as readers see it, and tells what is wrong.

    .venv/bin/mkdocs build --strict --config-file docs/mkdocs.yml
    python -m tests.browser.look build/site

Each page is opened in windows of three widths, in light and in dark. What is wrong is printed, and
the exit code is then 1:

- a page that is wider than its window, and what sticks out of it; wide tables and code scroll in a
  box of their own;
- text that runs out of its cell or out of its plot, and text in plots that is too faint or small;
- images that did not load, errors in scripts, answers that are errors, requests to another host;
- links to pages, or to places in them, that are not there. Links to other hosts are counted, and
  printed with ``--external`` for somebody to open: no other host is asked for anything.

``--screenshots FOLDER`` keeps pictures. ``--page start.html`` looks at that page alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

from attrs import define, field

from tests.browser.devtools import Tab, chromium

WIDTHS, HEIGHT = (390, 820, 1440), 900
SCHEMES = {"light": "default", "dark": "slate"}  # what a reader prefers, and what is shown

# Returns {problems, links, places} of the page that is open.
SEE = (Path(__file__).parent / "see.js").read_text(encoding="utf-8")


@define
class Site:
    """A built site that is served on this machine.

    :param folder: where it was built
    :param origin: the URL that it is served at, without a slash at its end
    :param refused: the answers that were errors, since somebody looked last
    """

    folder: Path
    origin: str
    refused: list[str] = field(factory=list)

    def pages(self) -> list[str]:
        """Return the paths of all pages, below the folder."""
        return sorted(
            path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.html")
        )


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Site]:
    """Serve a folder on a free port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def log_error(self, format: str, *args: Any) -> None:  # noqa: A002
            site.refused.append(f"the answer was an error: {format % args} for {self.path}")

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site = Site(folder, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def told_by(event: dict[str, Any], origin: str) -> str | None:
    """Return what is wrong according to an event of the browser, if anything is."""
    told = event["params"]
    match event["method"]:
        case "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", "")
            return f"a script failed: {details['text']} {thrown}"
        case "Log.entryAdded" if told["entry"]["level"] == "error":
            return f"the browser says: {told['entry']['text']} {told['entry'].get('url', '')}"
        case "Network.loadingFailed" if not told.get("canceled"):
            return f"a request failed: {told['errorText']}"
        case "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith((f"{origin}/", "data:", "blob:", "about:")):
                return f"it asks another host: {url}"
    return None


@define
class Reader:
    """Somebody who opens the pages of a site, and notes what is wrong and where.

    :param site: that is read
    :param tab: in which it is read
    :param pictures: the folder for screenshots, if they are wanted
    :param wrong: for each page, each problem and where it was seen
    :param links: the targets of all links, by page
    :param places: what a link to a page may point to, by page
    """

    site: Site
    tab: Tab
    pictures: Path | None
    wrong: dict[str, dict[str, list[str]]] = field(factory=dict, init=False)
    links: dict[str, set[str]] = field(factory=dict, init=False)
    places: dict[str, set[str]] = field(factory=dict, init=False)

    def note(self, page: str, problem: str, where: str) -> None:
        """Note that a page has a problem."""
        self.wrong.setdefault(page, {}).setdefault(problem, []).append(where)

    def read(self, page: str, scheme: str) -> None:
        """Open a page for somebody who prefers this scheme, and see it at all widths."""
        self.tab.load(f"{self.site.origin}/{page}", scheme)
        for width in WIDTHS:
            self.tab.resize(width, HEIGHT)
            seen = self.tab.evaluate(SEE)
            if seen["scheme"] != SCHEMES[scheme]:
                self.note(page, f"it is shown as {seen['scheme']}", f"{width} {scheme}")
            for problem in dict.fromkeys(seen["problems"]):
                self.note(page, problem, f"{width} {scheme}")
            if self.pictures is not None:
                self._keep_picture(self.pictures, f"{page.removesuffix('.html')} {width} {scheme}")
            self.links[page], self.places[page] = set(seen["links"]), set(seen["places"])
        told = {told_by(event, self.site.origin) for event in self.tab.events} - {None}
        for problem in (*self.site.refused, *map(str, told)):
            self.note(page, problem, scheme)
        self.site.refused.clear()

    def follow_links(self) -> None:
        """Note the links that lead nowhere in the site."""
        for page, targets in self.links.items():
            for target in sorted(targets - self.external()):
                url, fragment = urldefrag(target)
                path = unquote(urlsplit(url).path)[1:]
                if not path or path.endswith("/"):
                    path += "index.html"
                if not (self.site.folder / path).is_file():
                    self.note(page, f"a dead link: {path}", "everywhere")
                elif fragment and unquote(fragment) not in self.places.get(path, {fragment}):
                    self.note(page, f"a dead link: {path} has no #{fragment}", "everywhere")

    def external(self) -> set[str]:
        """Return the links to other hosts."""
        everything: set[str] = set().union(*self.links.values())
        return {link for link in everything if not link.startswith(f"{self.site.origin}/")}

    def _keep_picture(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{re.sub(r'[^A-Za-z0-9_]+', '-', name)}.png"
        path.write_bytes(self.tab.screenshot(whole=True))


def main() -> int:
    """Look at the site, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("site", type=Path, help="the folder that mkdocs has built")
    parser.add_argument("--page", action="append", help="a page, such as start.html; all if none")
    parser.add_argument("--screenshots", type=Path, help="the folder for pictures")
    parser.add_argument("--external", action="store_true", help="print the links to other hosts")
    asked = parser.parse_args()
    with served(asked.site) as site, chromium() as tab:
        reader = Reader(site, tab, asked.screenshots)
        pages = asked.page or site.pages()
        for page in pages:
            for scheme in SCHEMES:
                reader.read(page, scheme)
    reader.follow_links()
    for page, problems in reader.wrong.items():
        for problem, where in problems.items():
            print(f"{page}: {problem}  ({', '.join(where)})")
    if asked.external:
        print(*sorted(reader.external()), sep="\n")
    print(
        f"{len(pages)} pages at {len(WIDTHS)} widths in {len(SCHEMES)} schemes: "
        f"{sum(map(len, reader.wrong.values()))} problems; "
        f"{sum(map(len, reader.links.values()))} links, {len(reader.external())} to other hosts"
    )
    return 1 if reader.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
