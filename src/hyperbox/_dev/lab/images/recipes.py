"""What the lab's images are made of: declarations only.

They are what a real node has: some on one base layer (`debian-base`, `python-web`, `nginx`, `redis`), others on bases
of their own that were built separately (`node-app`, `postgres`, `jre`, `science`), with the same files in other
tars. `python-web` has a second version: its packages were installed anew, one more came, the app changed, a file went
away and a folder was replaced. `busybox` and `pause` are small enough for any test.

Every service listens on loopback, on the port in the variable `PORT`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Base:
    """A base tree, bootstrapped on its own."""

    name: str
    include: tuple[str, ...] = ()
    slim: bool = False


@dataclass(frozen=True)
class Probe:
    """How to see that a container is ready and answers.

    - `http`: GET / on its port answers 200 and the body contains `expect`;
    - `tcp`: after `send`, the answer on its port starts with `expect`;
    - `output`: it ends with status 0 and its output contains `expect`;
    - `none`: it runs;
    - `exec`, besides: a command that, run in the ready container, prints `exec_expect`.
    """

    kind: Literal["http", "tcp", "output", "none"]
    expect: str = ""
    send: bytes = b""
    exec: tuple[str, ...] = ()
    exec_expect: str = ""


@dataclass(frozen=True)
class Recipe:
    """One image: a base, packages, and a shell script for the app's layer, run in the chroot."""

    name: str
    tag: str
    probe: Probe
    base: Base | None = None
    packages: tuple[str, ...] = ()
    before: str = ""
    app: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    port: int | None = None
    user: str = ""
    workdir: str = ""

    @property
    def key(self) -> str:
        """`name:tag`."""
        return f"{self.name}:{self.tag}"


SHARED = Base("shared")
_NODE = Base("node", include=("ca-certificates", "netbase"))
_POSTGRES = Base("postgres", include=("tzdata",))
_JRE = Base("jre", include=("ca-certificates",), slim=True)
_SCIENCE = Base("science")

_FLASK = """
import os, sqlite3, ssl, json
from flask import Flask
app = Flask(__name__)
@app.get("/")
def index():
    return json.dumps({{"version": {version}, "sqlite": sqlite3.sqlite_version, "ssl": ssl.OPENSSL_VERSION}})
app.run("127.0.0.1", int(os.environ.get("PORT", "8000")))
"""

_NODE_APP = """
const express = require('express');
const app = express();
app.get('/', (request, response) => response.json({node: process.version, express: true}));
app.listen(Number(process.env.PORT || 3000), '127.0.0.1');
"""

_NGINX = """
worker_processes 1;
error_log /dev/stderr warn;
pid /run/nginx-lab.pid;
events { worker_connections 128; }
http {
  include /etc/nginx/mime.types;
  access_log off;
  server { listen 127.0.0.1:@PORT@; root /srv/www; }
}
"""

_RHINO = """
var server = new java.net.ServerSocket(java.lang.Integer.parseInt(java.lang.System.getenv("PORT") || "8080"), 16,
  java.net.InetAddress.getLoopbackAddress());
var body = "java " + java.lang.System.getProperty("java.version") + "\\n";
var head = "HTTP/1.0 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: " + body.length + "\\r\\n\\r\\n";
while (true) {
  var client = server.accept();
  var input = new java.io.BufferedReader(new java.io.InputStreamReader(client.getInputStream()));
  for (var line = input.readLine(); line != null && line.length() > 0; line = input.readLine()) ;
  client.getOutputStream().write(new java.lang.String(head + body).getBytes());
  client.close();
}
"""

_SCIENCE_APP = """
import numpy, pandas, scipy.linalg, scipy.stats
frame = pandas.DataFrame({"x": numpy.arange(9.0)})
solved = scipy.linalg.solve(numpy.eye(3) * 2, numpy.ones(3))
print("science", frame.x.sum(), solved.sum(), round(scipy.stats.norm.cdf(0), 2))
"""

_POSTGRES_START = """#!/bin/sh
set -eu
data=/var/lib/postgresql/data
bin=$(echo /usr/lib/postgresql/*/bin)
as="setpriv --reuid postgres --regid postgres --init-groups"
if [ ! -s $data/PG_VERSION ]; then
  install -d -o postgres -g postgres -m 700 $data
  $as $bin/initdb --no-sync --auth=trust --no-instructions -D $data
fi
exec $as $bin/postgres -D $data -p ${PORT:-5432} -c listen_addresses=127.0.0.1 -c unix_socket_directories=/tmp
"""


def _file(path: str, text: str, mode: str = "644") -> str:
    """Shell that writes a file."""
    return (
        f"mkdir -p $(dirname {path})\ncat > {path} <<'END-OF-FILE'\n{text.lstrip()}END-OF-FILE\nchmod {mode} {path}\n"
    )


def _flask_app(version: int) -> str:
    return _file("/srv/app/app.py", _FLASK.format(version=version)) + _file("/srv/app/VERSION", f"{version}\n")


def _web(tag: str, packages: tuple[str, ...], app: str, expect: str) -> Recipe:
    return Recipe(
        "python-web", tag, Probe("http", expect), SHARED, packages, app=app,
        entrypoint=("python3", "-B", "/srv/app/app.py"), port=8000, workdir="/srv/app",
    )  # fmt: skip


_WEB_1 = _web(
    "v1",
    ("python3", "python3-flask"),
    _flask_app(1) + "mkdir -p /srv/app/static/old && echo old > /srv/app/static/old/style.css",
    '"version": 1',
)
_WEB_2 = _web(
    "v2",
    ("python3", "python3-flask", "python3-requests"),
    _flask_app(2)
    + "rm /etc/issue.net\n"
    + "cd /usr/share/doc && rm -r python3-flask && mkdir python3-flask && echo gone > python3-flask/README\n"
    + "touch /usr/lib/python3/dist-packages/flask/*.py\n",
    '"version": 2',
)

RECIPES = (
    Recipe("debian-base", "v1", Probe("output", "bookworm"), SHARED, cmd=("cat", "/etc/os-release")),
    _WEB_1,
    _WEB_2,
    Recipe(
        "nginx", "v1", Probe("http", "lab page"), SHARED, ("nginx-light", "iputils-ping", "libcap2-bin"),
        app=_file("/srv/www/index.html", "<p>lab page</p>\n") + _file("/etc/nginx/lab.conf.in", _NGINX) + _file(
            "/usr/local/bin/start",
            "#!/bin/sh\nsed \"s/@PORT@/${PORT:-80}/\" /etc/nginx/lab.conf.in > /run/nginx-lab.conf\n"
            "exec nginx -c /run/nginx-lab.conf -g 'daemon off;'\n", "755"),
        entrypoint=("/usr/local/bin/start",), port=80,
    ),
    Recipe(
        "redis", "v1", Probe("tcp", "+PONG", b"PING\r\n"), SHARED, ("redis-server",),
        app=_file("/usr/local/bin/start", "#!/bin/sh\nexec redis-server --port ${PORT:-6379} --bind 127.0.0.1 "
                  '--save "" --daemonize no --dir /var/lib/redis\n', "755"),
        entrypoint=("/usr/local/bin/start",), port=6379,
    ),
    Recipe(
        "node-app", "v1", Probe("http", '"express":true'), _NODE, ("nodejs", "node-express"),
        app=_file("/srv/app/server.js", _NODE_APP), entrypoint=("node", "/srv/app/server.js"),
        env={"NODE_PATH": "/usr/share/nodejs:/usr/lib/nodejs"}, port=3000, workdir="/srv/app",
    ),
    Recipe(
        "postgres", "v1",
        Probe("tcp", "N", b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
              ("sh", "-c", "psql -h /tmp -p ${PORT:-5432} -U postgres -Atc 'select 6*7'"), "42"),
        _POSTGRES, ("postgresql",),
        before="mkdir -p /etc/postgresql-common\n"
               "echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf",
        app=_file("/usr/local/bin/start", _POSTGRES_START, "755"), entrypoint=("/usr/local/bin/start",), port=5432,
    ),
    Recipe(
        "jre", "v1", Probe("http", "java 17"), _JRE, ("default-jre-headless", "rhino"),
        before="mkdir -p /usr/share/man/man1",  # its alternatives have pages there, which slim leaves out
        app=_file("/srv/app/server.js", _RHINO), port=8080,
        entrypoint=("java", "-cp", "/usr/share/java/js.jar", "org.mozilla.javascript.tools.shell.Main",
                    "/srv/app/server.js"),
    ),
    Recipe(
        "science", "v1", Probe("output", "science 36.0 1.5 0.5"), _SCIENCE,
        ("python3", "python3-numpy", "python3-scipy", "python3-pandas"),
        app=_file("/srv/app/main.py", _SCIENCE_APP), entrypoint=("python3", "-B", "/srv/app/main.py"),
    ),
    Recipe("busybox", "v1", Probe("output", "hello"), cmd=("echo", "hello")),
    Recipe(
        "pause", "v1", Probe("none"),
        entrypoint=("/bin/sh", "-c", "trap 'exit 0' TERM INT; sleep 2147483647 & wait"),
    ),
)  # fmt: skip

BY_KEY = {recipe.key: recipe for recipe in RECIPES}
ALL_IMAGES = tuple(recipe.key for recipe in RECIPES)
"""Every image, in the order of building."""
DEMO_IMAGES = ("python-web:v1", "node-app:v1")
"""Two services with overlapping content and no common layer."""
CI_IMAGES = ("busybox:v1", "pause:v1", "debian-base:v1", *DEMO_IMAGES)
"""Enough for the tests; about a minute from nothing."""


def resolve(name: str) -> Recipe:
    """The recipe of `name:tag`, or the first version of `name`. Raises `KeyError` when there is none."""
    if name in BY_KEY:
        return BY_KEY[name]
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise KeyError(name)
