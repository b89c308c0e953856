"""The application for a WSGI server: ``gunicorn -k gevent wsgi:app`` (its settings: gunicorn.conf.py)."""

from ccproxy_flask.app import create_app

app = create_app()
