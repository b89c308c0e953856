"""Where finished records are kept and asked for."""
