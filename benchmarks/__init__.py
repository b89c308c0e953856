"""What the proxy costs, measured against its upstream reached directly and through nginx."""
