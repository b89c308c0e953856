"""A proxy written the obvious way, which records nothing: what ours is measured against."""

from __future__ import annotations

import os

import requests
from flask import Flask, Response, request
from requests.adapters import HTTPAdapter

app = Flask(__name__)
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_maxsize=64))


@app.post("/<upstream>/<path:path>")
def forward(upstream: str, path: str) -> Response:
    """Pass a request on to the port that the environment has for *upstream*."""
    answer = session.request(
        request.method,
        f"http://127.0.0.1:{os.environ[upstream]}/{path}",
        params=request.query_string,
        data=request.get_data(),
        headers={"Content-Type": request.content_type or ""},
        stream=True,
    )
    content_type = answer.headers.get("Content-Type")
    return Response(answer.iter_content(None), answer.status_code, content_type=content_type)
