"""The process that moves the journal into the store, and answers questions about it.

Nothing is imported here: gunicorn's arbiter needs ``supervisor`` alone, and neither it nor a worker
may load the database's library.
"""
