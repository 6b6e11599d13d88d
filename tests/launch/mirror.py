"""A web server of one folder for tests of downloads: it can break a transfer off and go on from a
byte."""

from __future__ import annotations

import http.server
import threading


class Mirror(http.server.ThreadingHTTPServer):
    """Serves a folder; `requests` are (path, first byte asked for, bytes sent). Breaks off each
    transfer of a path in `break_after` after that many bytes, once, and not before `go_on` is set;
    without `ranges` it always begins at the first byte."""

    daemon_threads = True

    def __init__(self, folder, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.break_after, self.requests = folder, ranges, {}, []
        self.url, self.go_on = "http://127.0.0.1:%d" % self.server_address[1], threading.Event()
        self.go_on.set()

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.go_on.set()
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        if not (server.folder / path).is_file():
            server.requests.append((path, 0, 0))
            self.send_error(404)
            return
        content = (server.folder / path).read_bytes()
        asked = self.headers.get("Range")
        first = int(asked[len("bytes=") :].rstrip("-")) if asked and server.ranges else 0
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            self.send_header(
                "Content-Range", "bytes %d-%d/%d" % (first, len(content) - 1, len(content))
            )
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        cut = server.break_after.pop(path, None)
        sent = content[first:][:cut]
        server.requests.append((path, first, len(sent)))
        try:
            self.wfile.write(sent)
            self.wfile.flush()
        except OSError:
            pass  # the other side has left
        if cut:
            server.go_on.wait(60)  # then less than was promised: the connection breaks

    def log_message(self, *_):
        pass
