"""gunicorn reads this file from the working directory; the settings live in the package."""

from ccproxy_flask.gunicorn_config import *  # noqa: F403  gunicorn takes every name
