"""``python -m ccproxy_flask.cli`` is ``ccproxy-flask``."""

from . import main

main(prog_name="ccproxy-flask")
