"""The server of the viewer: this machine only, GET only, and nothing from other hosts on the page."""

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from msal_deploy import __version__
from msal_deploy.errors import BadInput, DeployError
from msal_deploy.prediction.view.gallery import Answer, Gallery

LOOPBACK = "127.0.0.1"
# OpenSeadragon 6.1.1 adds one inline style, which removes the focus ring on touch screens; this is its hash.
STYLE = "'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='"
POLICY = f"default-src 'self'; img-src 'self' data: blob:; style-src 'self' {STYLE}; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # the next folder may be shown at the same port
}


class Server(ThreadingHTTPServer):
    """Serves a gallery on the loopback interface."""

    daemon_threads = True
    block_on_close = False  # a browser keeps its connections open

    def __init__(self, gallery: Gallery, port: int) -> None:
        self.gallery = gallery
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that a browser on this machine may call the server by."""
        return f"{LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}"

    def server_close(self) -> None:
        """Close the socket and the slides."""
        super().server_close()
        self.gallery.close()


def make_server(gallery: Gallery, port: int = 0) -> Server:
    """Return a server that listens; `serve_forever` answers.

    Args:
        gallery: What to show.
        port: 0 for any that is free.

    Raises:
        BadInput: The port is taken.
    """
    try:
        return Server(gallery, port)
    except OSError as error:
        raise BadInput(f"Cannot listen on port {port} ({error.strerror})", "choose another one with --port") from error


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"msal-deploy/{__version__}", ""

    def do_GET(self) -> None:
        # Another site's script can reach this server by a host name of its own, but not with this one in the header.
        if self.headers.get("Host") not in self.server.hosts:
            return self._refuse(HTTPStatus.FORBIDDEN)
        try:
            answer = self.server.gallery.answer(self.path)
        except DeployError as error:
            return self._send(
                HTTPStatus.INTERNAL_SERVER_ERROR, Answer("text/plain; charset=utf-8", str(error).encode())
            )
        return self._send(HTTPStatus.OK, answer) if answer else self._refuse(HTTPStatus.NOT_FOUND)

    def _not_allowed(self) -> None:
        self.close_connection = True  # the body of the request is not read
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _not_allowed

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(status, Answer("text/plain; charset=utf-8", status.phrase.encode()))

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        self.send_response(status)
        fixed = HEADERS | ({"Allow": "GET"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {})
        for name, value in (fixed | {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}).items():
            self.send_header(name, value)
        try:
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
        except (BrokenPipeError, ConnectionResetError):  # the reader has moved on
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: one line for each tile helps nobody."""
