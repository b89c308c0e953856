"""What a person can do about each type of error. Pure."""

from __future__ import annotations

ADVICE: dict[str, str] = {
    "authentication": "The provider does not accept the key. Check the client's key, or the "
    "provider's API_KEY in the settings, and whether it is for this provider.",
    "permission": "The key is valid, but not for this. Check the account's access to the model, "
    "its region, and its organisation's limits.",
    "not_found": "The provider does not know this model or address. Compare the model's name and "
    "the path with the provider's documentation.",
    "invalid_request": "The provider does not accept the request as it was sent; its message says "
    "what is wrong. The client has to change it.",
    "request_too_large": "The request is over the provider's limit. Shorten the conversation or "
    "send fewer or smaller images.",
    "rate_limit": "The limit of the account is reached. Wait as long as Retry-After says, send "
    "fewer requests at once, or ask the provider for a higher limit.",
    "overloaded": "The provider is overloaded. Try again later, or use another model.",
    "api_error": "The provider failed. Try again; if it goes on, look at the provider's status "
    "page, and give its support the upstream request id.",
    "stream_error": "The provider broke a stream off that had begun well. What was seen until "
    "then is recorded. Try again.",
    "bad_request": "The request could not be passed on; the message says why. The client has to "
    "change it.",
    "body_too_large": "The body is over PROXY__MAX_BODY_BYTES. Raise it, or send less.",
    "headers_too_large": "The headers are over PROXY__MAX_HEADER_BYTES. Raise it, or send less.",
    "not_allowed": "The client used a Host that is not served here. Add it to "
    "SECURITY__ALLOWED_HOSTS, or use one that is.",
    "unknown_route": "No provider is meant by this path. Look at the client's base URL: often "
    "/v1 is missing, or stands there twice.",
    "upgrade_required": "The client asked for a protocol that is not spoken here. Most clients go "
    "on over HTTP by themselves.",
    "upstream_unreachable": "There was no connection to the provider. Check the network, DNS, "
    "PROXY__OUTBOUND_PROXY, and the provider's BASE_URL.",
    "upstream_broken": "The provider's answer was cut short. Try again; if it goes on, look for "
    "something between here and the provider that ends long connections.",
    "upstream_timeout": "The provider was silent for too long. Raise PROVIDERS__<NAME>__"
    "TIMEOUT_READ_SECONDS where it may think that long.",
    "client_timeout": "The client began to send its request and did not go on. Look for something "
    "between it and here that holds requests back, or for a client that hangs.",
    "client_disconnected": "The client hung up before the end: somebody stopped it, or its own "
    "timeout is shorter than the answer took.",
    "worker_lost": "The worker died with the request in flight; the server's log says why. Often "
    "it is memory. Try again.",
    "record_lost": "The request ended, but the record of its end could not be kept. Make room on "
    "the journal's disk, and look at the status page.",
    "internal_error": "This is a defect of the proxy; the server's log has the reason.",
}
