"""Why a provider's cache missed, and what each part of a context costs while it stays."""
