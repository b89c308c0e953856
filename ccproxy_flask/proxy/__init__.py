"""The way of a request to its upstream, and of the answer back."""
