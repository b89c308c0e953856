"""The least that gunicorn, gevent and Flask can do: what the machine gives today."""

from flask import Flask

app = Flask(__name__)


@app.post("/")
def hello() -> bytes:
    """Answer without doing anything."""
    return b"hello"
