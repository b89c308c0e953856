"""What we need of gunicorn beyond WSGI: headers as they came, and answers without additions.

WSGI joins repeated request headers, and gunicorn adds ``Server`` and ``Date`` to each answer. A
transparent proxy must do neither. Under another server the WSGI way is used.
"""
