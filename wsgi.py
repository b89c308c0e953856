"""The application: ``gunicorn -k gevent wsgi:app``, with the settings in gunicorn.conf.py."""

from ccproxy_flask.app import create_app

app = create_app()
